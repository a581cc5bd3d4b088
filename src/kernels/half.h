/* fp16: kernels of it are those of f32 between conversions.
 *
 * An operand in f16 is converted to f32 in the call's scratch, the best kernel for f32 computes, and results in f16 are
 * rounded: every op works, sums are f32, and only what is stored is narrow. What only moves elements is not converted.
 */
#pragma once
#include "base/cpu.h"
#include "kernels/kernel.h"

bool tr_call_has_half(const tr_call *call);
/* The kernel for a call that has f16 operands; before its `prepare`. NULL as tr_kernel_choose. */
const tr_kernel *tr_kernel_half(tr_call *call, tr_isa isa, bool reference);

void tr_halves_to_f32(const uint16_t *from, int64_t count, float *to);
void tr_f32_to_halves(const float *from, int64_t count, uint16_t *to);
