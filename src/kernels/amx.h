/* Matrix products on tiles (AMX), one of the ways of kernels/matmul.c. bf16 x bf16 with sums in f32, as
 * tr_matmul_spec says; C is bf16, or f32 without bias and function. Only on x86-64, and only where
 * tr_cpu_isa_best() gave TR_ISA_AMX, which asks the system for the tiles. See fast/amx.c. */
#pragma once
#include "kernels/matmul.h"

/* Quicker than the others: not for few rows, for which packing B would take the time. */
bool tr_amx_fits(const tr_matmul_spec *spec);
size_t tr_amx_scratch_bytes(const tr_matmul_spec *spec);
void tr_amx_run(const tr_matmul_spec *spec, const void *a, const void *b, const float *bias, void *c, void *scratch);
/* With spec->packed: the size of a packed B, and packing it; tr_amx_run then takes it in B's place. */
size_t tr_amx_packed_bytes(const tr_matmul_spec *spec);
void tr_amx_pack(const tr_matmul_spec *spec, const void *b, void *packed);
