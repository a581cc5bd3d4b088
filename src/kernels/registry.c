/* Which kernels there are; see registry.h. The tables of an instruction set that this build does not
 * have are weak and absent. */
#include "kernels/registry.h"

#define TABLE(isa, family) extern const tr_kernel tr_kernels_##isa##_##family[] __attribute__((weak));
#define X(family) \
    TABLE(portable, family) TABLE(avx2, family) TABLE(avx512, family) TABLE(avx512_bf16, family)
TR_KERNEL_FAMILIES(X)
#undef X

static const tr_kernel *const *fast_tables(tr_isa isa, int *out_count)
{
#define PORTABLE(family) tr_kernels_portable_##family,
#define AVX2(family) tr_kernels_avx2_##family,
#define AVX512(family) tr_kernels_avx512_##family,
#define AVX512_BF16(family) tr_kernels_avx512_bf16_##family,
    enum { FAMILIES = 0
#define X(family) +1
        TR_KERNEL_FAMILIES(X)
#undef X
    };
    static const tr_kernel *const tables[TR_ISA_COUNT][FAMILIES] = {
        [TR_ISA_PORTABLE] = {TR_KERNEL_FAMILIES(PORTABLE)},
        [TR_ISA_AVX2] = {TR_KERNEL_FAMILIES(AVX2)},
        [TR_ISA_AVX512] = {TR_KERNEL_FAMILIES(AVX512)},
        [TR_ISA_AVX512_BF16] = {TR_KERNEL_FAMILIES(AVX512_BF16)},
    };
    *out_count = FAMILIES;
    return tables[isa];
}

static const tr_kernel *const reference_tables[] = {
#define X(family) tr_reference_##family,
    TR_KERNEL_FAMILIES(X)
#undef X
};

const tr_kernel *tr_kernel_reference(tr_op op)
{
    for (size_t t = 0; t < sizeof reference_tables / sizeof *reference_tables; t++)
        for (const tr_kernel *k = reference_tables[t]; k->run; k++)
            if (k->op == op)
                return k;
    return NULL;
}

const tr_kernel *tr_kernel_fast(tr_op op, tr_isa isa, int index)
{
    int count;
    const tr_kernel *const *tables = fast_tables(isa, &count);
    for (int t = 0; t < count; t++)
        for (const tr_kernel *k = tables[t]; k && k->run; k++)
            if (k->op == op && index-- == 0)
                return k;
    return NULL;
}

const tr_kernel *tr_kernel_choose(const tr_call *call, tr_isa isa)
{
    for (int i = (int)isa; i >= 0; i--) {
        const tr_kernel *kernel;
        for (int k = 0; (kernel = tr_kernel_fast(call->op, (tr_isa)i, k)); k++)
            if (!kernel->accepts || kernel->accepts(call))
                return kernel;
    }
    const tr_kernel *kernel = tr_kernel_reference(call->op);
    return kernel && (!kernel->accepts || kernel->accepts(call)) ? kernel : NULL;
}
