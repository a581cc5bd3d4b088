/* Saving a checkpoint by several ranks: each writes the elements that it has to their places in the
 * files, and nothing of a tensor passes through another. Ranks are threads of one process or
 * processes that share a file system.
 *
 *   one rank       tr_checkpoint_begin; tr_checkpoint_session_path goes to all
 *   every rank     tr_checkpoint_join, tr_checkpoint_share_tensor,
 *                  tr_checkpoint_share_write ..., tr_checkpoint_share_commit_take
 *   (that rank waits until all have committed)
 *   the one rank   tr_checkpoint_finish_take, or tr_checkpoint_drop when any rank failed
 *
 * The result is what tr_checkpoint_save makes of the same tensors, bit by bit, with the same
 * invariants (checkpoint.h) after a kill of any rank at any moment: until it is finished the
 * checkpoint is a directory that begins with a dot, and the next save removes it.
 *
 * What is complete. A share notes which elements it wrote, as runs at equal distances, and its
 * commit, after all is synced, leaves the notes in the session's directory. finish demands that the
 * notes together cover every element of every tensor. An element may be written twice, with the
 * same value.
 *
 * Data is written with pwrite, not through a mapping: a full disk is then an error and not a
 * signal, and no rank ever reads a page of the files, so that on a network file system no stale
 * neighbour is written back. Cost: a call for each run of elements; memory a few numbers a run
 * pattern.
 */
#pragma once
#include "data/checkpoint.h"

typedef struct tr_checkpoint_session tr_checkpoint_session;
/* Makes the session's directory: headers, files at their final size, the trainer's state and other
 * files. `data` of the tensors is not looked at; `contents` is not needed after. Takes the lock of
 * OUT. */
tr_error *tr_checkpoint_begin(const char *out_dir, const tr_checkpoint_contents *contents,
                              int ranks, tr_checkpoint_session **out);
/* What the ranks 0 to ranks - 1 join by; borrowed. It is a path below out_dir, as relative as that.
 */
const char *tr_checkpoint_session_path(const tr_checkpoint_session *session);
/* After every rank's commit: checks that all is there (an error names the tensor that is not),
 * computes the checksums by reading, writes the manifest, publishes as tr_checkpoint_save does;
 * out_complete as there. */
tr_error *tr_checkpoint_finish_take(tr_checkpoint_session *session, int64_t keep_last,
                                    bool *out_complete);
/* Removes what was written; the earlier checkpoints are untouched. NULL is fine. */
void tr_checkpoint_drop(tr_checkpoint_session *session);

/* One rank's part in a session. One thread at a time uses it; different shares, all at once. */
typedef struct tr_checkpoint_share tr_checkpoint_share;
/* Each `rank` commits at most once; one that has nothing to write need not join. */
tr_error *tr_checkpoint_join(const char *session_path, int rank, tr_checkpoint_share **out);
/* *out_tensor stands for the tensor in tr_checkpoint_share_write. An error if the session has none
 * of that name, or of another type or number of elements. */
tr_error *tr_checkpoint_share_tensor(const tr_checkpoint_share *share, const char *name,
                                     tr_dtype dtype, int64_t elems, int64_t *out_tensor);
/* Writes the elements [first, first + count) of the whole tensor; runs that ascend are noted best.
 */
tr_error *tr_checkpoint_share_write(tr_checkpoint_share *share, int64_t tensor, int64_t first,
                                    int64_t count, const void *data);
/* Syncs what was written, then says so. Only then may finish be called. */
tr_error *tr_checkpoint_share_commit_take(tr_checkpoint_share *share);
void tr_checkpoint_share_drop(tr_checkpoint_share *share); /* NULL is fine */
