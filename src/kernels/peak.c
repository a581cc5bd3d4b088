/* Which peak loop; see peak.h. */
#include "kernels/peak.h"

#include <stddef.h>

extern tr_peak_loop tr_peak_portable_loop, tr_peak_avx2_loop, tr_peak_avx512_loop, tr_peak_avx512_bf16_loop,
    tr_peak_amx_loop;
extern tr_read_loop tr_read_portable_loop, tr_read_avx2_loop, tr_read_avx512_loop, tr_read_avx512_bf16_loop,
    tr_read_amx_loop;

tr_peak_loop *tr_peak_find(tr_isa isa)
{
#ifdef __x86_64__
    static tr_peak_loop *const loops[] = {tr_peak_portable_loop, tr_peak_avx2_loop, tr_peak_avx512_loop,
                                          tr_peak_avx512_bf16_loop, tr_peak_amx_loop};
    return loops[isa];
#else
    (void)isa;
    return tr_peak_portable_loop;
#endif
}

tr_read_loop *tr_read_find(tr_isa isa)
{
#ifdef __x86_64__
    static tr_read_loop *const loops[] = {tr_read_portable_loop, tr_read_avx2_loop, tr_read_avx512_loop,
                                          tr_read_avx512_bf16_loop, tr_read_amx_loop};
    return loops[isa];
#else
    (void)isa;
    return tr_read_portable_loop;
#endif
}
