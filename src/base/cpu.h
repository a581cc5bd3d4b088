/* Facts about the machine this process may use: instruction set, cores, memory.
 *
 * What a container or a batch system grants counts, not what the board has: the affinity mask, the
 * CPU quota and the memory limits of the control groups (version 1 and 2) above the process.
 */
#pragma once
#include <stdint.h>

#include "base/error.h"

/* The instruction sets kernels are compiled for, each containing the ones before it. */
typedef enum tr_isa {
    TR_ISA_PORTABLE,
    TR_ISA_AVX2,        /* AVX2, FMA, F16C */
    TR_ISA_AVX512,      /* + AVX-512 F, BW, VL, DQ */
    TR_ISA_AVX512_BF16, /* + AVX-512 BF16, VNNI */
    TR_ISA_AMX,         /* + tiles with bf16 products */
    TR_ISA_COUNT
} tr_isa;

/* "portable", "avx2", "avx512", "avx512_bf16", "amx". */
const char *tr_isa_name(tr_isa isa);
/* The best that the processor and the operating system both support. Asks the system for the tiles of AMX. */
tr_isa tr_cpu_isa_best(void);
/* From its name, or "auto" for the best; refuses unknown names and what this processor lacks. */
tr_error *tr_isa_parse(const char *name, tr_isa *out);

/* Cores this process can keep busy: the affinity mask, less what the CPU quota takes; at least 1.
 */
int tr_cpu_cores(void);

typedef struct tr_memory_facts {
    int64_t total_bytes;     /* physical memory, or the control group's limit when that is less */
    int64_t available_bytes; /* what can be had now without swapping */
} tr_memory_facts;
/* Both 0 when /proc cannot be read. */
tr_memory_facts tr_cpu_memory(void);

/* The processor's name as it gives it, e.g. "AMD EPYC 9R14", or "unknown processor". Fills `out`.
 */
void tr_cpu_name(char *out, int64_t size);
