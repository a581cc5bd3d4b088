/* Cores of ranks under MPI; see binding.h. */
#define _GNU_SOURCE
#include "base/binding.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/memory.h"

/* Open MPI; MPICH and Intel MPI. */
static const char *const local_sizes[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"};
/* Set where somebody has asked for a binding, `none` included: Open MPI 4; 5. */
static const char *const asked[] = {"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_rmaps_base_mapping_policy",
                                    "PRTE_MCA_hwloc_default_binding_policy", "PRTE_MCA_rmaps_default_mapping_policy"};

int tr_binding_local_ranks(void)
{
    for (int i = 0; i < TR_COUNT(local_sizes); i++) {
        const char *text = getenv(local_sizes[i]);
        long count = text ? strtol(text, NULL, 10) : 0;
        if (count > 0 && count < 1 << 20)
            return (int)count;
    }
    return 0;
}

/* The cores that a process may use, as large a set as the kernel has; NULL: it does not say. CPU_FREE. */
static cpu_set_t *cores_of(pid_t process, size_t *out_bytes)
{
    for (int bits = 1024; bits <= 1 << 20; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC(bits);
        *out_bytes = CPU_ALLOC_SIZE(bits);
        if (set && sched_getaffinity(process, *out_bytes, set) == 0)
            return set;
        if (set)
            CPU_FREE(set);
    }
    return NULL;
}

static int count_cores(pid_t process)
{
    size_t bytes;
    cpu_set_t *set = cores_of(process, &bytes);
    int count = set ? CPU_COUNT_S(bytes, set) : 0;
    if (set)
        CPU_FREE(set);
    return count;
}

void tr_binding_release(void)
{
    int local = tr_binding_local_ranks();
    if (local == 0)
        return;
    for (int i = 0; i < TR_COUNT(asked); i++)
        if (getenv(asked[i]))
            return;
    size_t bytes;
    cpu_set_t *theirs = cores_of(getppid(), &bytes);
    int all = theirs ? CPU_COUNT_S(bytes, theirs) : 0, own = count_cores(0);
    /* One core would be shared by what computes and what drives messages, while another may be idle. */
    if (own < all && (own == 1 || own < all / local))
        sched_setaffinity(0, bytes, theirs); /* when it fails it stays as it is */
    if (theirs)
        CPU_FREE(theirs);
}

int tr_binding_threads(int ranks)
{
    int local = tr_binding_local_ranks(), own = tr_cpu_cores(), all = local ? count_cores(getppid()) : 0;
    bool bound = count_cores(0) < all; /* otherwise own has the quota of the control group in it */
    return TR_MAX(1, TR_MIN(own, (bound ? all : own) / (local ? local : ranks)));
}
