/* Which kernels there are; see registry.h. What this file lists is what CMakeLists.txt compiles. */
#include "kernels/registry.h"

#define TABLE(isa, family) extern const tr_kernel tr_kernels_##isa##_##family[];
#define PORTABLE(family) tr_kernels_portable_##family,
#define X(family) TABLE(portable, family)
TR_KERNEL_FAMILIES(X)
#undef X
#ifdef __x86_64__
#define AVX2(family) tr_kernels_avx2_##family,
#define AVX512(family) tr_kernels_avx512_##family,
#define AVX512_BF16(family) tr_kernels_avx512_bf16_##family,
#define AMX(family) tr_kernels_amx_##family,
#define X(family) TABLE(avx2, family) TABLE(avx512, family)
TR_KERNEL_FAMILIES(X)
#undef X
#define X(family) TABLE(avx512_bf16, family)
TR_BF16_FAMILIES(X)
#undef X
#define X(family) TABLE(amx, family)
TR_TILE_FAMILIES(X)
#undef X
#endif

#define X(family) +1
enum { FAMILIES = TR_KERNEL_FAMILIES(X) };
#undef X

static const tr_kernel *const fast_tables[TR_ISA_COUNT][FAMILIES] = {
    [TR_ISA_PORTABLE] = {TR_KERNEL_FAMILIES(PORTABLE)},
#ifdef __x86_64__
    [TR_ISA_AVX2] = {TR_KERNEL_FAMILIES(AVX2)},
    [TR_ISA_AVX512] = {TR_KERNEL_FAMILIES(AVX512)},
    [TR_ISA_AVX512_BF16] = {TR_BF16_FAMILIES(AVX512_BF16)},
    [TR_ISA_AMX] = {TR_TILE_FAMILIES(AMX)},
#endif
};

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
    for (int f = 0; f < FAMILIES; f++)
        for (const tr_kernel *k = fast_tables[isa][f]; k && k->run; k++)
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
