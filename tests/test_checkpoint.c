/* Checkpoints: saving and opening, damage to any file, and a stop or a failure at every single
 * system call of a save, by one rank and by several (who here take turns).
 *
 * The faults are injected by defining write, fsync, rename and the like in this program: the
 * library's calls arrive here first. At call number `fault_at` one of these happens:
 *
 *   FAIL_CALL  the call fails with ENOSPC (a full disk), and so do all later ones that need space
 *   CRASH      the process ends at once, a write half done
 *   POWER      the same, and what was not synced is lost: such files are cut to half their length
 *
 * Whatever happens, the run must open at a whole checkpoint, OUT/ must not show files of two, and
 * the next save must put everything right.
 */
#undef _FORTIFY_SOURCE
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/checkpoint.h"
#include "data/checkpoint_ranks.h"

/* Faults. */

typedef enum fault { NONE, FAIL_CALL, CRASH, POWER } fault;
static fault fault_kind;
static int64_t fault_at, calls; /* calls counts only while fault_kind is set */
static bool no_symlinks, no_fallocate;
static bool by_ranks; /* save() is by three ranks */
enum { MOST_DIRTY = 64 };
static struct {
    dev_t device;
    ino_t inode;
    int fd;
    bool dirty;
} written[MOST_DIRTY];
static int written_count;

static void note_file(int fd, bool dirty)
{
    struct stat info;
    if (fault_kind != POWER || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return;
    int i = 0;
    while (i < written_count &&
           (written[i].inode != info.st_ino || written[i].device != info.st_dev))
        i++;
    if (i == MOST_DIRTY)
        return;
    if (i == written_count) {
        written[i].device = info.st_dev;
        written[i].inode = info.st_ino;
        written[i].fd = dup(fd);
        written_count++;
    }
    written[i].dirty = dirty;
}

static void stop(void)
{
    struct stat info;
    for (int i = 0; i < written_count; i++)
        if (written[i].dirty && fstat(written[i].fd, &info) == 0)
            (void)!ftruncate(written[i].fd, info.st_size / 2);
    _exit(42);
}

/* True when this call must fail. */
static bool strikes(bool needs_space)
{
    if (fault_kind == NONE)
        return false;
    calls++;
    if (fault_kind == FAIL_CALL) {
        errno = ENOSPC;
        return calls == fault_at || (calls > fault_at && needs_space);
    }
    if (calls == fault_at)
        stop();
    return false;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    bool counted = fault_kind != NONE && fd > 2;
    if (counted && fault_kind != FAIL_CALL && calls + 1 == fault_at) {
        note_file(fd, true);
        syscall(SYS_write, fd, bytes, count / 2);
    }
    if (counted && strikes(true))
        return -1;
    note_file(fd, true);
    return syscall(SYS_write, fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    if (fault_kind != NONE && fault_kind != FAIL_CALL && calls + 1 == fault_at) {
        note_file(fd, true);
        syscall(SYS_pwrite64, fd, bytes, count / 2, offset);
    }
    if (strikes(true))
        return -1;
    note_file(fd, true);
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (strikes(true))
        return -1;
    note_file(fd, true);
    if (no_fallocate) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fsync(int fd)
{
    if (strikes(false))
        return -1;
    note_file(fd, false);
    return 0; /* the tests cut no real power */
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    if (flags & O_CREAT && strikes(true))
        return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int rename(const char *from, const char *to)
{
    return strikes(false) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int symlink(const char *target, const char *path)
{
    if (no_symlinks) {
        errno = EPERM;
        return -1;
    }
    return strikes(true) ? -1 : (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

int link(const char *from, const char *to)
{
    return strikes(true) ? -1 : (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    return strikes(false) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return strikes(false) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdir(const char *path, mode_t mode)
{
    return strikes(true) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

/* A run whose every byte tells its step. */

enum { WEIGHTS = 3000 };
static char *scratch;

static char *in_scratch(const char *name)
{
    return tr_path_join(scratch, name);
}

/* Elements [first, first + count) of a tensor, if there are any. */
static tr_error *put_part(tr_checkpoint_share *share, const tr_saved *t, int64_t first,
                          int64_t count)
{
    int64_t id, width = tr_dtype_bytes(t->dtype);
    TR_TRY(tr_checkpoint_share_tensor(share, t->name, t->dtype, tr_saved_bytes(t) / width, &id));
    return tr_checkpoint_share_write(share, id, first, count,
                                     (const char *)t->data + first * width);
}

/* Rank r of three: a third of "w" in two runs, a third of the moments, and rank 1 the bias. */
static tr_error *put_share(const char *session, int r, const tr_checkpoint_contents *c)
{
    tr_checkpoint_share *share;
    tr_error *error;
    TR_TRY(tr_checkpoint_join(session, r, &share));
    if (r == 1)
        TR_GO(put_part(share, &c->model[0], 0, 2));
    TR_GO(put_part(share, &c->model[1], r * 500, 500));
    TR_GO(put_part(share, &c->model[1], 1500 + r * 500, 500));
    error = put_part(share, &c->optimizer[0], r * 1000, 1000);
done:
    if (!error)
        return tr_checkpoint_share_commit_take(share);
    tr_checkpoint_share_drop(share);
    return error;
}

static tr_error *save_by_ranks(const char *out, const tr_checkpoint_contents *c, int64_t keep_last,
                               bool *complete)
{
    tr_checkpoint_session *session;
    if (complete)
        *complete = false;
    TR_TRY(tr_checkpoint_begin(out, c, 3, &session));
    for (int r = 0; r < 3; r++) {
        tr_error *error = put_share(tr_checkpoint_session_path(session), r, c);
        if (error) {
            tr_checkpoint_drop(session);
            return error;
        }
    }
    return tr_checkpoint_finish_take(session, keep_last, complete);
}

static tr_error *save(const char *out, int64_t step, int64_t keep_last, bool best, bool *complete)
{
    static float weights[WEIGHTS], moments[WEIGHTS];
    for (int i = 0; i < WEIGHTS; i++) {
        weights[i] = (float)(step * 1000 + i);
        moments[i] = -(float)(step * 1000 + i);
    }
    uint16_t bias[2] = {(uint16_t)step, (uint16_t)(step + 1)};
    char config[64];
    int length = snprintf(config, sizeof config, "{\"step\": %lld}\n", (long long)step);
    const tr_saved model[] = {{"b", TR_BF16, 1, (int64_t[]){2}, bias},
                              {"w", TR_F32, 2, (int64_t[]){WEIGHTS / 10, 10}, weights}};
    const tr_saved optimizer[] = {{"w.m", TR_F32, 1, (int64_t[]){WEIGHTS}, moments}};
    const tr_checkpoint_file files[] = {{"config.json", config, length},
                                        {"tokenizer.json", "{}\n", 3}};
    json_t *trainer = json_pack("{s:I}", "step", (json_int_t)step);
    const tr_checkpoint_contents contents = {.step = step,
                                             .model = model,
                                             .model_count = 2,
                                             .optimizer = optimizer,
                                             .optimizer_count = 1,
                                             .trainer = trainer,
                                             .files = files,
                                             .file_count = 2,
                                             .best = best};
    tr_error *error =
        (by_ranks ? save_by_ranks : tr_checkpoint_save)(out, &contents, keep_last, complete);
    json_decref(trainer);
    return error;
}

static bool weights_say(const tr_safetensors *file, const char *name, double factor, int64_t step)
{
    const tr_stored *t = tr_safetensors_find(file, name);
    float values[WEIGHTS];
    if (!t || t->elems != WEIGHTS)
        return false;
    tr_error_free(tr_stored_read(t, 0, WEIGHTS, TR_F32, values));
    for (int i = 0; i < WEIGHTS; i++)
        if (values[i] != (float)(factor * (double)(step * 1000 + i)))
            return false;
    return true;
}

/* The step in a config.json, -1 when it cannot be read. */
static int64_t config_step(const char *directory)
{
    char *path = tr_path_join(directory, "config.json");
    json_t *json;
    int64_t step = -1;
    tr_error *error = tr_json_load(path, &json);
    if (!error) {
        step = json_integer_value(json_object_get(json, "step"));
        json_decref(json);
    }
    tr_error_free(error);
    free(path);
    return step;
}

/* Opens the run and demands that all parts are of one step, which is returned; -1 when it cannot
 * be. */
static int64_t opened_step(const char *out, char **out_warning)
{
    tr_checkpoint *checkpoint;
    tr_error *error = tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint);
    if (out_warning)
        *out_warning = NULL;
    if (error) {
        FAIL("%s", tr_error_text(error));
        tr_error_free(error);
        return -1;
    }
    int64_t step = tr_checkpoint_step(checkpoint);
    CHECK(weights_say(tr_checkpoint_model(checkpoint), "w", 1, step));
    CHECK(weights_say(tr_checkpoint_optimizer(checkpoint), "w.m", -1, step));
    CHECK_INT(json_integer_value(json_object_get(tr_checkpoint_trainer(checkpoint), "step")), step);
    CHECK_INT(config_step(tr_checkpoint_directory(checkpoint)), step);
    const char *warning = tr_checkpoint_warning(checkpoint);
    if (out_warning)
        *out_warning = warning ? tr_strdup(warning) : NULL;
    else if (warning)
        FAIL("unexpected warning: %s", warning);
    tr_checkpoint_close(checkpoint);
    return step;
}

/* What a reader of Hugging Face directories sees in OUT/: one step, or nothing (-1). */
static int64_t shown_step(const char *out)
{
    int64_t step = config_step(out);
    char *path = tr_path_join(out, "model.safetensors");
    tr_safetensors *model = NULL;
    tr_error *error = step < 0 ? NULL : tr_safetensors_open(path, &model);
    if (error)
        step = -1;
    if (model)
        CHECK(weights_say(model, "w", 1, step));
    tr_error_free(error);
    tr_safetensors_close(model);
    free(path);
    return step;
}

static char *listing(const char *out)
{
    char *path = tr_path_join(out, "checkpoints");
    char **names;
    int64_t count;
    tr_text text = {0};
    tr_text_add(&text, "", 0);
    CHECK_OK(tr_directory_list(path, &names, &count));
    for (int64_t i = 0; i < count; i++)
        if (strcmp(names[i], ".lock") != 0)
            tr_text_format(&text, "%s%s", text.length ? " " : "", names[i]);
    tr_names_free(names, count);
    free(path);
    return text.bytes;
}

static void check_listing(const char *out, const char *want)
{
    char *got = listing(out);
    CHECK_STRING(got, want);
    free(got);
}

/* Tests. */

static void test_save_and_open(void)
{
    char *out = in_scratch("run"), *latest = in_scratch("run/latest"),
         *best = in_scratch("run/best");
    bool complete = false;
    CHECK_OK(save(out, 10, 2, false, &complete));
    CHECK(complete);
    CHECK_INT(opened_step(out, NULL), 10);
    CHECK_INT(shown_step(out), 10);
    CHECK_OK(save(out, 20, 2, true, NULL));
    CHECK_OK(save(out, 30, 2, false, NULL));
    CHECK_OK(save(out, 40, 2, false, NULL));
    check_listing(out, "step-00000020 step-00000030 step-00000040");
    CHECK_INT(opened_step(out, NULL), 40);
    CHECK_INT(shown_step(out), 40);
    CHECK_INT(opened_step(latest, NULL), 40);
    CHECK_INT(opened_step(best, NULL), 20);
    CHECK_OK(save(out, 50, 1, true, NULL)); /* a new best: the old one goes */
    check_listing(out, "step-00000050");
    CHECK_INT(opened_step(best, NULL), 50);
    char *private = in_scratch("run/optimizer.safetensors");
    CHECK(!tr_path_exists(private));
    free(private);
    free(out), free(latest), free(best);
}

static void test_same_step_and_going_back(void)
{
    char *out = in_scratch("back");
    CHECK_OK(save(out, 10, 3, false, NULL));
    CHECK_OK(save(out, 20, 3, false, NULL));
    CHECK_OK(save(out, 20, 3, false, NULL));
    check_listing(out, "step-00000010 step-00000020.2");
    CHECK_INT(shown_step(out), 20);
    CHECK_OK(save(out, 20, 3, false, NULL));
    check_listing(out, "step-00000010 step-00000020");
    CHECK_OK(save(out, 15, 3, false, NULL)); /* the run was started again at step 10 */
    CHECK_INT(opened_step(out, NULL), 15);
    CHECK_INT(shown_step(out), 15);
    CHECK_OK(save(out, 17, 2, false, NULL));
    check_listing(out, "step-00000015 step-00000017");
    free(out);
}

static void test_shards(void)
{
    char *out = in_scratch("shards"), *index = in_scratch("shards/model.safetensors.index.json");
    char *single = in_scratch("shards/model.safetensors");
    float values[100] = {1, 2, 3};
    const tr_saved model[] = {{"a", TR_F32, 1, (int64_t[]){10}, values},
                              {"b", TR_F32, 1, (int64_t[]){100}, values}, /* larger than a shard */
                              {"c", TR_F32, 1, (int64_t[]){10}, values},
                              {"d", TR_F32, 1, (int64_t[]){10}, values}};
    json_t *trainer = json_object();
    tr_checkpoint_contents contents = {
        .step = 1, .model = model, .model_count = 4, .trainer = trainer, .shard_bytes = 80};
    CHECK_OK(tr_checkpoint_save(out, &contents, 1, NULL));
    tr_checkpoint *checkpoint = NULL;
    CHECK_OK(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint));
    if (checkpoint) {
        CHECK_INT(tr_safetensors_count(tr_checkpoint_model(checkpoint)), 4);
        CHECK_INT(tr_safetensors_count(tr_checkpoint_optimizer(checkpoint)), 0);
        const tr_stored *d = tr_safetensors_find(tr_checkpoint_model(checkpoint), "d");
        CHECK(d && strstr(d->file, "model-00003-of-00003.safetensors"));
    }
    tr_checkpoint_close(checkpoint);
    tr_safetensors *shown = NULL;
    CHECK_OK(tr_safetensors_open(out, &shown)); /* through the links */
    tr_safetensors_close(shown);
    CHECK(tr_path_exists(index) && !tr_path_exists(single));
    contents.step = 2;
    contents.shard_bytes = 0;
    CHECK_OK(tr_checkpoint_save(out, &contents, 1, NULL));
    struct stat info;
    CHECK(tr_path_exists(single) && lstat(index, &info) != 0); /* no link is left dangling */
    json_decref(trainer);
    free(out), free(index), free(single);
}

static int run_command(const char *format, const char *a, const char *b)
{
    char *command = tr_format(format, a, b);
    int status = system(command);
    free(command);
    return status;
}

static void test_copies(void)
{
    char *out = in_scratch("origin"), *kept = in_scratch("kept"),
         *resolved = in_scratch("resolved");
    CHECK_OK(save(out, 1, 2, true, NULL));
    CHECK_OK(save(out, 2, 2, false, NULL));
    CHECK_INT(run_command("cp -r %s %s", out, kept), 0);
    CHECK_INT(run_command("cp -rL %s %s", out, resolved), 0);
    CHECK_OK(tr_path_remove(out));
    CHECK_INT(shown_step(kept), 2);
    CHECK_INT(shown_step(resolved), 2);
    CHECK_INT(opened_step(resolved, NULL), 2);
    CHECK_OK(save(kept, 3, 1, false, NULL));
    CHECK_OK(save(resolved, 3, 1, false, NULL));
    CHECK_INT(shown_step(kept), 3);
    CHECK_INT(shown_step(resolved), 3);
    check_listing(resolved, "step-00000001 step-00000003");
    free(out), free(kept), free(resolved);
}

static void test_refusals(void)
{
    char *out = in_scratch("theirs"), *config = in_scratch("theirs/config.json");
    char *nothing = in_scratch("nothing"), *empty = in_scratch("empty");
    tr_checkpoint *checkpoint = NULL;
    CHECK_OK(tr_directory_make(out));
    CHECK_OK(tr_file_write(config, "{}", 2));
    CHECK_ERROR(tr_checkpoint_prepare(out), "choose another 'out'");
    CHECK_ERROR(save(out, 1, 1, false, NULL), "choose another 'out'");
    CHECK_ERROR(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint), "model.from=");
    CHECK_ERROR(tr_checkpoint_open(out, TR_CHECKPOINT_MODEL, &checkpoint),
                "has no model.safetensors");
    CHECK_ERROR(tr_checkpoint_open(nothing, TR_CHECKPOINT_ALL, &checkpoint),
                "nothing of that name");
    CHECK_ERROR(tr_checkpoint_open(config, TR_CHECKPOINT_ALL, &checkpoint), "is not a directory");
    CHECK_OK(tr_checkpoint_prepare(empty));
    CHECK_OK(tr_checkpoint_prepare(empty));
    CHECK_ERROR(tr_checkpoint_open(empty, TR_CHECKPOINT_ALL, &checkpoint), "has no checkpoint yet");
    CHECK_ERROR(tr_checkpoint_open(scratch, TR_CHECKPOINT_ALL, &checkpoint), "neither a run");
    /* Somebody else's model, opened as what it is. */
    char *weights = in_scratch("theirs/model.safetensors");
    CHECK_OK(tr_safetensors_save(weights, NULL, 0, NULL, NULL));
    CHECK_OK(tr_checkpoint_open(out, TR_CHECKPOINT_MODEL, &checkpoint));
    if (checkpoint) {
        CHECK_INT(tr_checkpoint_step(checkpoint), -1);
        CHECK(tr_checkpoint_trainer(checkpoint) == NULL);
        CHECK(tr_checkpoint_optimizer(checkpoint) == NULL);
    }
    tr_checkpoint_close(checkpoint);
    tr_checkpoint_close(NULL);
    free(out), free(config), free(nothing), free(empty), free(weights);
}

static void test_file_names(void)
{
    static const char *const bad[] = {"",
                                      ".hidden",
                                      "a/b",
                                      "..",
                                      "latest",
                                      "manifest.json",
                                      "optimizer.safetensors",
                                      "model.safetensors"};
    char *out = in_scratch("names");
    json_t *trainer = json_object();
    for (int64_t i = 0; i < TR_COUNT(bad); i++) {
        const tr_checkpoint_file file = {bad[i], "x", 1};
        const tr_checkpoint_contents contents = {
            .trainer = trainer, .files = &file, .file_count = 1};
        CHECK_ERROR(tr_checkpoint_save(out, &contents, 1, NULL), "cannot hold a file named");
    }
    check_listing(out, "");
    json_decref(trainer);
    free(out);
}

static void test_two_savers(void)
{
    char *out = in_scratch("twice"), *lock = in_scratch("twice/checkpoints/.lock");
    CHECK_OK(save(out, 1, 1, false, NULL));
    int ready[2], finish[2];
    CHECK(pipe(ready) == 0 && pipe(finish) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte = 0;
        int fd = open(lock, O_RDWR);
        (void)!syscall(SYS_flock, fd, 2 /* LOCK_EX */);
        (void)!write(ready[1], &byte, 1);
        (void)!read(finish[0], &byte, 1);
        _exit(0);
    }
    char byte = 0;
    (void)!read(ready[0], &byte, 1);
    CHECK_ERROR(save(out, 2, 1, false, NULL), "another process is saving");
    (void)!write(finish[1], &byte, 1);
    waitpid(child, NULL, 0);
    CHECK_OK(save(out, 2, 1, false, NULL));
    close(ready[0]), close(ready[1]), close(finish[0]), close(finish[1]);
    free(out), free(lock);
}

/* Damage. */

typedef enum damage {
    FLIP_FIRST,
    FLIP_MIDDLE,
    FLIP_LAST,
    CUT_HALF,
    CUT_ALL,
    GROW,
    GARBAGE,
    REMOVE,
    DAMAGES
} damage;

static void harm(const char *path, damage how)
{
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    int64_t size = map.size, at = how == FLIP_FIRST ? 0 : how == FLIP_LAST ? size - 1 : size / 2;
    char *bytes = tr_alloc((size_t)size + 1);
    memcpy(bytes, map.bytes, (size_t)size);
    tr_map_close(&map);
    if (how == CUT_HALF || how == CUT_ALL)
        size = how == CUT_HALF ? size / 2 : 0;
    else if (how == GROW)
        bytes[size++] = ' ';
    else if (how == GARBAGE)
        memset(bytes, 0xA7, (size_t)size);
    else
        bytes[at] ^= 0x10;
    CHECK_OK(tr_path_remove(path));
    if (how != REMOVE)
        CHECK_OK(tr_file_write(path, bytes, size));
    free(bytes);
}

static void test_damage_to_any_file(void)
{
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors",
                                        "trainer.json",      "config.json",
                                        "tokenizer.json",    "manifest.json"};
    char *out = in_scratch("damage"), *newest = in_scratch("damage/checkpoints/step-00000002");
    for (int64_t f = 0; f < TR_COUNT(files); f++)
        for (damage how = FLIP_FIRST; how < DAMAGES; how++) {
            bool manifest = strcmp(files[f], "manifest.json") == 0;
            if (manifest && how == GROW)
                continue; /* white space after JSON is no damage */
            CHECK_OK(tr_path_remove(out));
            CHECK_OK(save(out, 1, 3, false, NULL));
            CHECK_OK(save(out, 2, 3, false, NULL));
            char *path = tr_path_join(newest, files[f]), *warning;
            harm(path, how);
            CHECK_INT(opened_step(out, &warning), 1);
            CHECK(warning && strstr(warning, path) && strstr(warning, "step-00000001 (step 1)"));
            free(warning);
            tr_checkpoint *checkpoint;
            CHECK_ERROR(tr_checkpoint_open(newest, TR_CHECKPOINT_ALL, &checkpoint), path);
            CHECK_ERROR(tr_checkpoint_open(newest, TR_CHECKPOINT_ALL, &checkpoint), "newest good");
            /* Who wants only the model does not mind the optimizer. */
            if (strcmp(files[f], "optimizer.safetensors") == 0) {
                CHECK_OK(tr_checkpoint_open(out, TR_CHECKPOINT_MODEL, &checkpoint));
                CHECK_INT(tr_checkpoint_step(checkpoint), 2);
                CHECK(tr_checkpoint_warning(checkpoint) == NULL);
                tr_checkpoint_close(checkpoint);
            }
            CHECK_OK(save(out, 2, 3, false, NULL)); /* training goes on and saves that step again */
            CHECK_INT(shown_step(out), 2);
            CHECK_INT(opened_step(out, &warning), 2);
            CHECK(!warning || manifest);
            free(warning);
            if (manifest) {
                CHECK_OK(save(out, 3, 3, false, NULL));
                CHECK_INT(opened_step(out, NULL), 3); /* now it is an old one: no warning */
            }
            free(path);
        }
    free(out), free(newest);
}

/* No flipped bit of the manifest goes unnoticed. */
static void test_every_bit_of_the_manifest(void)
{
    char *out = in_scratch("bits"),
         *path = in_scratch("bits/checkpoints/step-00000002/manifest.json");
    CHECK_OK(save(out, 1, 3, false, NULL));
    CHECK_OK(save(out, 2, 3, false, NULL));
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    int64_t size = map.size;
    char *bytes = tr_alloc((size_t)size);
    memcpy(bytes, map.bytes, (size_t)size);
    tr_map_close(&map);
    int64_t unnoticed = 0;
    for (int64_t bit = 0; bit < size * 8; bit += 3) {
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        CHECK_OK(tr_file_write(path, bytes, size));
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        char *warning;
        int64_t step = opened_step(out, &warning);
        CHECK(warning ? step == 1 : step == 2);
        unnoticed += !warning;
        free(warning);
    }
    CHECK_INT(unnoticed, 0);
    free(bytes), free(out), free(path);
}

static void test_all_damaged(void)
{
    char *out = in_scratch("lost"),
         *one = in_scratch("lost/checkpoints/step-00000001/trainer.json");
    char *two = in_scratch("lost/checkpoints/step-00000002/manifest.json");
    CHECK_OK(save(out, 1, 3, false, NULL));
    CHECK_OK(save(out, 2, 3, false, NULL));
    harm(one, CUT_HALF);
    harm(two, GARBAGE);
    tr_checkpoint *checkpoint;
    CHECK_ERROR(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint), one);
    CHECK_ERROR(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint), two);
    CHECK_ERROR(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint),
                "restore one from a backup");
    free(out), free(one), free(two);
}

/* Faults at every call. */

/* The state before the fault: step 1 the best, step 2 the newest. */
static void prepare(const char *out)
{
    CHECK_OK(tr_path_remove(out));
    CHECK_OK(save(out, 1, 1, true, NULL));
    CHECK_OK(save(out, 2, 1, false, NULL));
}

/* One save of step 3 in a child, with the fault at call `at`. False: the save has fewer calls. */
static bool fault_in_child(const char *out, fault kind, int64_t at)
{
    pid_t child = fork();
    if (child == 0) {
        fault_kind = kind;
        fault_at = at;
        bool complete;
        tr_error *error = save(out, 3, 1, false, &complete);
        bool reached = calls >= at;
        fault_kind = NONE;
        if (!reached)
            _exit(error ? 1 : 0);
        /* A failure is reported in one sentence that names the step, unless it did not matter. */
        bool said =
            !error || (strstr(tr_error_text(error), "step 3 ") &&
                       strstr(tr_error_text(error), complete ? "is saved, but" : "not saved"));
        if (!complete && !error)
            said = false;
        char *left = listing(out);
        if (!complete && strstr(left, ".new-"))
            said = false; /* what was written must be gone, the disk is full */
        free(left);
        tr_error_free(error);
        _exit(said ? complete ? 43 : 44 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    int code = WEXITSTATUS(status);
    CHECK(code == 0 || (code == 42 && kind != FAIL_CALL) ||
          ((code == 43 || code == 44) && kind == FAIL_CALL));
    if (kind == FAIL_CALL && code == 43)
        CHECK_INT(opened_step(out, NULL), 3);
    if (kind == FAIL_CALL && code == 44)
        CHECK_INT(opened_step(out, NULL), 2);
    return code != 0;
}

static void fault_everywhere(fault kind, const char *name)
{
    char *out = in_scratch("faults");
    bool reached = true;
    int64_t at = 1, old = 0, new = 0, unshown = 0;
    for (; reached && check_ok; at++) {
        prepare(out);
        reached = fault_in_child(out, kind, at);
        int64_t opened = opened_step(out, NULL), shown = shown_step(out);
        CHECK(opened == 2 || opened == 3);
        CHECK(shown == 2 || shown == 3 || (no_symlinks && shown == -1));
        CHECK(shown <= opened);
        old += opened == 2;
        new += opened == 3;
        unshown += shown == -1;
        CHECK_OK(save(out, 4, 1, false, NULL)); /* puts everything right */
        CHECK_INT(opened_step(out, NULL), 4);
        CHECK_INT(shown_step(out), 4);
        check_listing(out, "step-00000001 step-00000004");
        if (!check_ok)
            FAIL("the fault was %s at call %lld", name, (long long)at);
    }
    CHECK(at > 40 && old > 20 && new > 5); /* the faults did happen, before and after the switch */
    CHECK(no_symlinks ? unshown > 0 : unshown == 0);
    free(out);
}

static void test_full_disk_at_every_call(void)
{
    fault_everywhere(FAIL_CALL, "a failed call");
}

static void test_kill_at_every_call(void)
{
    fault_everywhere(CRASH, "a kill");
}

static void test_power_loss_at_every_call(void)
{
    fault_everywhere(POWER, "a loss of power");
}

static void test_without_symbolic_links(void)
{
    no_symlinks = true;
    fault_everywhere(CRASH, "a kill without symbolic links");
    no_symlinks = false;
}

/* The same of a save by ranks: of the rank that begins and finishes, and of the others. */
static void test_faults_of_ranks(void)
{
    by_ranks = true;
    fault_everywhere(FAIL_CALL, "a failed call");
    fault_everywhere(CRASH, "a kill");
    fault_everywhere(POWER, "a loss of power");
    no_fallocate = true;
    fault_everywhere(FAIL_CALL, "a failed call without fallocate");
    no_fallocate = false;
    by_ranks = false;
}

/* The first save of a run has nothing to fall back on: nothing or all. */
static void test_kill_in_the_first_save(void)
{
    char *out = in_scratch("first");
    bool reached = true;
    for (int64_t at = 1; reached && check_ok; at++) {
        CHECK_OK(tr_path_remove(out));
        pid_t child = fork();
        if (child == 0) {
            fault_kind = CRASH;
            fault_at = at;
            tr_error *error = save(out, 3, 1, true, NULL);
            _exit(error ? 1 : 0);
        }
        int status = -1;
        waitpid(child, &status, 0);
        reached = WIFEXITED(status) && WEXITSTATUS(status) == 42;
        CHECK(reached || status == 0);
        tr_checkpoint *checkpoint;
        tr_error *error = tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint);
        CHECK(error ? tr_error_blame(error) == TR_USER : tr_checkpoint_step(checkpoint) == 3);
        if (!error)
            tr_checkpoint_close(checkpoint);
        else
            CHECK_INT(shown_step(out), -1);
        tr_error_free(error);
        CHECK_OK(save(out, 4, 1, false, NULL));
        CHECK_INT(shown_step(out), 4);
    }
    free(out);
}

/* kill -9 at random moments, again and again in the same run. */
static void test_kill_at_random_times(void)
{
    char *out = in_scratch("killed");
    uint64_t seed = (uint64_t)time(NULL), state = seed;
    int64_t last = 0;
    CHECK_OK(save(out, 0, 2, false, NULL));
    for (int round = 0; round < 40 && check_ok; round++) {
        int64_t start = opened_step(out, NULL);
        CHECK(start >= last);
        CHECK_INT(shown_step(out) <= start, 1);
        last = start;
        pid_t child = fork();
        if (child == 0)
            for (int64_t step = start + 1;; step++) {
                tr_error *error = save(out, step, 2, step % 5 == 0, NULL);
                if (error) {
                    fprintf(stderr, "%s\n", tr_error_text(error));
                    _exit(1);
                }
            }
        state = state * 6364136223846793005u + 1442695040888963407u;
        nanosleep(&(struct timespec){0, (long)(state >> 40) % 12000000}, NULL);
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        CHECK(WIFSIGNALED(status));
    }
    CHECK(last > 5);
    if (!check_ok)
        fprintf(stderr, "  seed %llu\n", (unsigned long long)seed);
    free(out);
}

/* A real full disk, where we may mount one. */
static void test_full_tmpfs(void)
{
    char *disk = in_scratch("disk"), *out = in_scratch("disk/run");
    CHECK_OK(tr_directory_make(disk));
    pid_t child = fork();
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount("tmpfs", disk, "tmpfs", 0, "size=128k") != 0)
            _exit(77);
        int64_t step = 1;
        tr_error *error = NULL;
        bool complete = true;
        for (; step < 100 && !error; step++)
            error = save(out, step, 100, false, &complete);
        bool good = error && !complete && step > 2;
        good = good && strstr(tr_error_text(error), "No space left on device") &&
               strstr(tr_error_text(error), "free some space") && tr_error_blame(error) == TR_RUN;
        if (!good)
            fprintf(stderr, "  %s\n", tr_error_text(error));
        tr_error_free(error);
        check_ok = true;
        good =
            good && opened_step(out, NULL) == step - 2 && shown_step(out) == step - 2 && check_ok;
        _exit(good ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        printf("test_full_tmpfs: skipped, mounting needs root\n");
    else
        CHECK_INT(status, 0);
    free(disk), free(out);
}

int main(void)
{
    char memory[] = "/dev/shm/trireme-test-checkpoint-XXXXXX";
    char disk[] = "/tmp/trireme-test-checkpoint-XXXXXX";
    scratch = mkdtemp(memory);
    if (!scratch)
        scratch = mkdtemp(disk);
    TEST(test_save_and_open);
    TEST(test_same_step_and_going_back);
    TEST(test_shards);
    TEST(test_copies);
    TEST(test_refusals);
    TEST(test_file_names);
    TEST(test_two_savers);
    TEST(test_damage_to_any_file);
    TEST(test_every_bit_of_the_manifest);
    TEST(test_all_damaged);
    TEST(test_full_disk_at_every_call);
    TEST(test_kill_at_every_call);
    TEST(test_power_loss_at_every_call);
    TEST(test_without_symbolic_links);
    TEST(test_faults_of_ranks);
    TEST(test_kill_in_the_first_save);
    TEST(test_kill_at_random_times);
    TEST(test_full_tmpfs);
    by_ranks = true;
    TEST(test_save_and_open);
    TEST(test_full_tmpfs);
    by_ranks = false;
    tr_error_free(tr_path_remove(scratch));
    return check_report();
}
