/* Fast kernels: optimizer. */
#include "kernels/kernel.h"

const tr_kernel TR_KERNELS(optimizer)[] = {{0}};
