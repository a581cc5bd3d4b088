/* What an MPI launcher binds: a process that has got one core of many takes all of its launcher's, unless the user has
 * asked for that; and threads are shared out among the ranks of a host. Each case in a process of its own, whose parent
 * stands for the launcher. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/binding.h"
#include "base/cpu.h"
#include "base/memory.h"
#include "check.h"

static int cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

/* In a child that is bound to one core: `seen` after the release. */
static int child(const char *ranks_here, const char *asked, int (*seen)(void))
{
    fflush(NULL);
    pid_t process = fork();
    if (process == 0) {
        cpu_set_t one;
        sched_getaffinity(0, sizeof one, &one);
        for (int k = 0, kept = 0; k < CPU_SETSIZE; k++)
            if (CPU_ISSET(k, &one) && kept++)
                CPU_CLR(k, &one);
        sched_setaffinity(0, sizeof one, &one);
        unsetenv("OMPI_COMM_WORLD_LOCAL_SIZE");
        unsetenv("OMPI_MCA_hwloc_base_binding_policy");
        if (ranks_here)
            setenv("OMPI_COMM_WORLD_LOCAL_SIZE", ranks_here, 1);
        if (asked)
            setenv("OMPI_MCA_hwloc_base_binding_policy", asked, 1);
        tr_binding_release();
        _exit(seen());
    }
    int status = 0;
    waitpid(process, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int threads_of_8(void)
{
    return tr_binding_threads(8);
}

static void test_release(void)
{
    int all = TR_MIN(cores(), 255);
    CHECK_INT(child("1", NULL, cores), all);
    CHECK_INT(child("2", NULL, cores), all);
    CHECK_INT(child("2", "core", cores), 1);
    CHECK_INT(child(NULL, NULL, cores), 1); /* no launcher: who has bound it knows why */
    CHECK_INT(child("none", NULL, cores), 1);
}

static void test_threads(void)
{
    int all = TR_MIN(tr_cpu_cores(), 255);
    CHECK_INT(child("1", NULL, threads_of_8), all);
    CHECK_INT(child("2", NULL, threads_of_8), TR_MAX(1, all / 2));
    CHECK_INT(child("1", "core", threads_of_8), 1);
    CHECK_INT(child(NULL, NULL, threads_of_8), 1);
    CHECK_INT(tr_binding_threads(1 << 20), 1);
}

int main(void)
{
    TEST(test_release);
    TEST(test_threads);
    return check_report();
}
