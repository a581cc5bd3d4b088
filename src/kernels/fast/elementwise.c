#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

extern const tr_kernel TR_KERNELS(elementwise)[];
const tr_kernel TR_KERNELS(elementwise)[] = {{.run = NULL}};
