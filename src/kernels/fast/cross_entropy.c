/* Fast kernels: cross_entropy. */
#include "kernels/kernel.h"

const tr_kernel TR_KERNELS(cross_entropy)[] = {{0}};
