/* The cores of a rank that an MPI launcher has started. mpirun of Open MPI binds each of one or two ranks to a single
 * core, however many the machine has, so a user would have to know `--bind-to none`; the program sees to it instead.
 */
#pragma once

/* How many ranks the launcher has started on this host; 0: it does not say, or there is none. */
int tr_binding_local_ranks(void);
/* Call before any thread is started. Where this process may use fewer cores than its share of what its launcher may
 * use, or just one, and the user has not asked for that, it may use all of the launcher's from now on. */
void tr_binding_release(void);
/* Threads of a rank whose `threads` are left open: its host's cores shared out among the ranks there. `ranks`: of the
 * run, taken for those on this host when no launcher says. At least 1. */
int tr_binding_threads(int ranks);
