#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

extern const tr_kernel TR_KERNELS(reduce)[];
const tr_kernel TR_KERNELS(reduce)[] = {{.run = NULL}};
