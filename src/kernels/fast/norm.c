#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

extern const tr_kernel TR_KERNELS(norm)[];
const tr_kernel TR_KERNELS(norm)[] = {{.run = NULL}};
