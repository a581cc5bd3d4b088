/* Files, the checksum and the suggestions. */
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/suggest.h"

static char *scratch; /* one directory for all tests of this program */

static char *in_scratch(const char *name)
{
    return tr_path_join(scratch, name);
}

static void test_crc(void)
{
    /* The check value of the Castagnoli CRC and the four examples of RFC 3720, B.4. */
    unsigned char zeros[32] = {0}, ones[32], up[32], down[32];
    for (int i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = (unsigned char)i;
        down[i] = (unsigned char)(31 - i);
    }
    CHECK_INT(tr_crc32c(0, "123456789", 9), 0xE3069283u);
    CHECK_INT(tr_crc32c(0, zeros, 32), 0x8A9136AAu);
    CHECK_INT(tr_crc32c(0, ones, 32), 0x62A8AB43u);
    CHECK_INT(tr_crc32c(0, up, 32), 0x46DD794Eu);
    CHECK_INT(tr_crc32c(0, down, 32), 0x113FDB5Cu);
    CHECK_INT(tr_crc32c(0, "", 0), 0);
}

static void test_crc_variants_agree(void)
{
    enum { N = 100003 };
    unsigned char *bytes = tr_alloc(N);
    for (int i = 0; i < N; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 13);
    for (int start = 0; start < 9; start++)
        for (int length = N - start; length > 0; length = length * 2 / 3) {
            CHECK_INT(tr_crc32c(7, bytes + start, length), tr_crc32c_plain(7, bytes + start, length));
            uint32_t half = tr_crc32c(0, bytes + start, length / 2);
            CHECK_INT(tr_crc32c(half, bytes + start + length / 2, length - length / 2),
                      tr_crc32c(0, bytes + start, length));
        }
    free(bytes);
}

static void test_write_then_map(void)
{
    char *path = in_scratch("a.bin");
    tr_map map;
    CHECK_OK(tr_file_write(path, "hello", 5));
    CHECK_OK(tr_map_open(path, &map));
    CHECK_INT(map.size, 5);
    CHECK(memcmp(map.bytes, "hello", 5) == 0);
    tr_map_close(&map);
    CHECK_OK(tr_file_write(path, "", 0));
    CHECK_OK(tr_map_open(path, &map));
    CHECK_INT(map.size, 0);
    CHECK(map.bytes != NULL);
    tr_map_close(&map);
    CHECK_ERROR(tr_map_open("/nonexistent/file", &map), "cannot open /nonexistent/file");
    CHECK_ERROR(tr_map_open(scratch, &map), "is a directory");
    CHECK_ERROR(tr_map_open("/dev/null", &map), "is a device");
    free(path);
}

static void test_big_write(void)
{
    enum { N = 3000001 };
    char *path = in_scratch("big.bin"), *bytes = tr_alloc(N);
    for (int i = 0; i < N; i++)
        bytes[i] = (char)(i % 251);
    tr_writer *writer;
    CHECK_OK(tr_writer_open(path, &writer));
    int64_t at = 0;
    for (int64_t piece = 1; at < N; piece = piece * 3 + 1) {
        int64_t count = TR_MIN(piece, N - at);
        CHECK_OK(tr_writer_write(writer, bytes + at, count));
        at += count;
        CHECK_INT(tr_writer_position(writer), at);
    }
    CHECK_INT(tr_writer_crc32c(writer), tr_crc32c(0, bytes, N));
    CHECK(!tr_path_exists(path)); /* not before the commit */
    CHECK_OK(tr_writer_commit_take(writer));
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    CHECK_INT(map.size, N);
    CHECK(map.size == N && memcmp(map.bytes, bytes, N) == 0);
    tr_map_close(&map);
    free(bytes);
    free(path);
}

static void test_drop_leaves_the_old(void)
{
    char *path = in_scratch("kept");
    CHECK_OK(tr_file_write(path, "old", 3));
    CHECK(chmod(path, 0640) == 0);
    tr_writer *writer;
    CHECK_OK(tr_writer_open(path, &writer));
    CHECK_OK(tr_writer_write(writer, "new text", 8));
    tr_writer_drop(writer);
    tr_writer_drop(NULL);
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    CHECK(map.size == 3 && memcmp(map.bytes, "old", 3) == 0);
    tr_map_close(&map);
    CHECK_OK(tr_file_write(path, "new", 3));
    struct stat info;
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0640); /* the mode is kept */
    char **names;
    int64_t count;
    CHECK_OK(tr_directory_list(scratch, &names, &count));
    for (int64_t i = 0; i < count; i++)
        CHECK(!strstr(names[i], ".tmp-"));
    tr_names_free(names, count);
    free(path);
}

/* A limit on file sizes is a full disk that needs no root. */
static void test_write_past_a_limit(void)
{
    char *path = in_scratch("limited");
    CHECK_OK(tr_file_write(path, "old", 3));
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        struct rlimit limit = {1 << 20, 1 << 20};
        setrlimit(RLIMIT_FSIZE, &limit);
        char *bytes = tr_alloc_zero(4, 1 << 20);
        tr_error *error = tr_file_write(path, bytes, 4 << 20);
        bool good = error && strstr(tr_error_text(error), path) &&
                    strstr(tr_error_text(error), "ulimit -f") && tr_error_blame(error) == TR_RUN;
        tr_writer *writer = NULL;
        tr_error_free(error);
        error = tr_writer_open(path, &writer);
        if (error)
            _exit(2);
        error = tr_writer_write(writer, bytes, 4 << 20);
        good = good && error;
        tr_error_free(error);
        error = tr_writer_write(writer, "x", 1);
        good = good && error && strstr(tr_error_text(error), "earlier write failed");
        tr_error_free(error);
        error = tr_writer_commit_take(writer);
        good = good && error;
        tr_error_free(error);
        _exit(good ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    CHECK(map.size == 3 && memcmp(map.bytes, "old", 3) == 0);
    tr_map_close(&map);
    free(path);
}

static void test_pipes(void)
{
    char *path = in_scratch("pipe");
    CHECK(mkfifo(path, 0600) == 0);
    enum { N = 2500000 };
    char *bytes = tr_alloc(N);
    for (int i = 0; i < N; i++)
        bytes[i] = (char)(i % 7);
    pid_t child = fork();
    if (child == 0) {
        tr_error *error = tr_file_write(path, bytes, N); /* straight into the pipe */
        _exit(error ? 1 : 0);
    }
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    CHECK_INT(map.size, N);
    CHECK(map.size == N && memcmp(map.bytes, bytes, N) == 0);
    tr_map_close(&map);
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    CHECK_OK(tr_file_write("/dev/null", "x", 1));
    struct stat info;
    CHECK(stat("/dev/null", &info) == 0 && S_ISCHR(info.st_mode));
    free(bytes);
    free(path);
}

static void test_directories(void)
{
    char *deep = in_scratch("d/e//f"), *top = in_scratch("d"), *file = in_scratch("d/e/file");
    char *below = in_scratch("d/e/file/x"), *link = in_scratch("d/link");
    CHECK_OK(tr_directory_make(deep));
    CHECK_OK(tr_directory_make(deep));
    CHECK(tr_path_is_directory(deep));
    CHECK_OK(tr_file_write(file, "1", 1));
    CHECK(symlink(scratch, link) == 0);
    CHECK_ERROR(tr_directory_make(below), "is a file");
    CHECK_ERROR(tr_directory_make(file), "is a file");
    CHECK_ERROR(tr_file_write(top, "1", 1), "is a directory");
    tr_error *error = tr_file_write(below, "1", 1);
    CHECK(error && tr_error_blame(error) == TR_USER);
    tr_error_free(error);
    char **names;
    int64_t count;
    char *listed = in_scratch("d/e");
    CHECK_OK(tr_directory_list(listed, &names, &count));
    CHECK_INT(count, 2);
    CHECK_STRING(names[0], "f");
    CHECK_STRING(names[1], "file");
    tr_names_free(names, count);
    CHECK_OK(tr_path_remove(top));
    CHECK(!tr_path_exists(top));
    CHECK(tr_path_is_directory(scratch)); /* a link inside was removed, not followed */
    CHECK_OK(tr_path_remove(top));
    CHECK_ERROR(tr_directory_list(top, &names, &count), "cannot list");
    CHECK_OK(tr_directory_sync(scratch));
    free(deep), free(top), free(file), free(below), free(link), free(listed);
}

static void test_join(void)
{
    char *a = tr_path_join("a", "b"), *b = tr_path_join("a/", "b"), *c = tr_path_join("", "b");
    CHECK_STRING(a, "a/b");
    CHECK_STRING(b, "a/b");
    CHECK_STRING(c, "b");
    free(a), free(b), free(c);
}

static void test_suggest(void)
{
    static const char *const keys[] = {"layers", "embed", "heads", "context", "vocab",
                                       "weight_decay", "train", "generate", "lr"};
    CHECK_STRING(tr_suggest("layer", keys, TR_COUNT(keys)), "layers");
    CHECK_STRING(tr_suggest("haeds", keys, TR_COUNT(keys)), "heads");
    CHECK_STRING(tr_suggest("Vocab", keys, TR_COUNT(keys)), "vocab");
    CHECK_STRING(tr_suggest("weight-decay", keys, TR_COUNT(keys)), "weight_decay");
    CHECK_STRING(tr_suggest("vocab_size", keys, TR_COUNT(keys)), "vocab");
    CHECK_STRING(tr_suggest("gen", keys, TR_COUNT(keys)), "generate");
    CHECK(tr_suggest("banana", keys, TR_COUNT(keys)) == NULL);
    CHECK(tr_suggest("", keys, TR_COUNT(keys)) == NULL);
    CHECK(tr_suggest("x", keys, 0) == NULL);
    char longest[400];
    memset(longest, 'l', sizeof longest);
    longest[399] = '\0';
    CHECK(tr_suggest(longest, keys, TR_COUNT(keys)) == NULL);
}

int main(void)
{
    char name[] = "/tmp/trireme-test-file-XXXXXX";
    scratch = mkdtemp(name);
    TEST(test_crc);
    TEST(test_crc_variants_agree);
    TEST(test_write_then_map);
    TEST(test_big_write);
    TEST(test_drop_leaves_the_old);
    TEST(test_write_past_a_limit);
    TEST(test_pipes);
    TEST(test_directories);
    TEST(test_join);
    TEST(test_suggest);
    tr_error_free(tr_path_remove(scratch));
    return check_report();
}
