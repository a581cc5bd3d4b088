/* safetensors: what is written reads back; whatever is wrong is refused with its reason. */
#include "check.h"

#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/safetensors.h"

static char *scratch;

static char *in_scratch(const char *name)
{
    return tr_path_join(scratch, name);
}

/* A file's bytes from a header and a count of data bytes, all zero. */
static char *file_bytes(const char *header, int64_t data_bytes, int64_t *out_size)
{
    int64_t length = (int64_t)strlen(header);
    char *bytes = tr_alloc_zero((size_t)(8 + length + data_bytes), 1);
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)((uint64_t)length >> 8 * i);
    memcpy(bytes + 8, header, (size_t)length);
    *out_size = 8 + length + data_bytes;
    return bytes;
}

static tr_error *parse(const char *header, int64_t data_bytes, tr_safetensors **out)
{
    int64_t size;
    char *bytes = file_bytes(header, data_bytes, &size);
    tr_error *error = tr_safetensors_parse(bytes, size, "t.safetensors", out);
    free(bytes); /* the tests below look at no data */
    return error;
}

static void test_round_trip(void)
{
    float weights[6] = {1, -2, 3.5f, 0, 1e-30f, -1e30f}, scalar = 42;
    uint8_t small[5] = {1, 2, 3, 4, 255};
    int64_t wide[2] = {INT64_MIN, INT64_MAX};
    uint16_t halves[2] = {0x3f80, 0xc000};
    const tr_saved saved[] = {
        {"small", TR_U8, 1, (int64_t[]){5}, small},
        {"h.0.weight", TR_F32, 2, (int64_t[]){2, 3}, weights},
        {"ids", TR_I64, 1, (int64_t[]){2}, wide},
        {"empty", TR_F32, 2, (int64_t[]){0, 7}, NULL},
        {"half \"quoted\" \xC3\xA9", TR_BF16, 1, (int64_t[]){2}, halves},
        {"scalar", TR_F32, 0, NULL, &scalar},
    };
    char *path = in_scratch("round.safetensors");
    int64_t bytes = 0;
    uint32_t crc = 0;
    CHECK_OK(tr_safetensors_save(path, saved, TR_COUNT(saved), &bytes, &crc));
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    CHECK_INT(map.size, bytes);
    CHECK_INT(tr_crc32c(0, map.bytes, map.size), crc);
    tr_map_close(&map);
    tr_safetensors *file = NULL;
    CHECK_OK(tr_safetensors_open(path, &file));
    CHECK_INT(tr_safetensors_count(file), TR_COUNT(saved));
    CHECK_STRING(tr_safetensors_metadata(file, "format"), "pt");
    CHECK(tr_safetensors_metadata(file, "other") == NULL);
    for (int64_t i = 0; i < TR_COUNT(saved); i++) {
        const tr_stored *t = tr_safetensors_find(file, saved[i].name);
        CHECK(t != NULL);
        if (!t)
            continue;
        CHECK_INT(t->dtype, saved[i].dtype);
        CHECK_OK(tr_stored_check(t, saved[i].rank, saved[i].dims));
        CHECK_INT(t->bytes, tr_saved_bytes(&saved[i]));
        CHECK(t->bytes == 0 || memcmp(t->data, saved[i].data, (size_t)t->bytes) == 0);
        CHECK_INT((uintptr_t)t->data % (size_t)tr_dtype_bytes(t->dtype), 0);
    }
    CHECK_INT((uintptr_t)tr_safetensors_at(file, 0)->data % 64, 0);
    const tr_stored *t;
    CHECK_ERROR(tr_safetensors_need(file, "h.0.wieght", &t), "the nearest is 'h.0.weight'");
    CHECK_ERROR(tr_safetensors_need(file, "absent", &t), "has no tensor 'absent'");
    CHECK_OK(tr_safetensors_need(file, "h.0.weight", &t));
    CHECK_ERROR(tr_stored_check(t, 2, (int64_t[]){3, 2}), "shape [2, 3], expected [3, 2]");
    CHECK_ERROR(tr_stored_check(t, 1, (int64_t[]){6}), "shape [2, 3], expected [6]");
    tr_safetensors_close(file);
    tr_safetensors_close(NULL);
    free(path);
}

static void test_conversions(void)
{
    /* 1, -2, largest half, smallest subnormal half, infinity */
    uint16_t f16[5] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x7c00};
    const float want[5] = {1, -2, 65504, 0x1p-24f, INFINITY};
    double f64[2] = {0.1, 1.00390625}; /* the second lies between two bf16: ties to even */
    int32_t whole[2] = {7, 8};
    char bytes[128], *at = bytes + 1; /* unaligned on purpose */
    memcpy(at, f16, sizeof f16);
    tr_stored half = {.name = "f16", .file = "x", .dtype = TR_F16, .elems = 5, .data = at};
    float out[5];
    CHECK_OK(tr_stored_read(&half, 0, 5, TR_F32, out));
    for (int i = 0; i < 5; i++)
        CHECK(out[i] == want[i]);
    CHECK_OK(tr_stored_read(&half, 2, 2, TR_F32, out));
    CHECK(out[0] == want[2] && out[1] == want[3]);
    memcpy(at, f64, sizeof f64);
    tr_stored wide = {.name = "f64", .file = "x", .dtype = TR_F64, .elems = 2, .data = at};
    uint16_t rounded[2];
    CHECK_OK(tr_stored_read(&wide, 0, 2, TR_F32, out));
    CHECK(out[0] == 0.1f);
    CHECK_OK(tr_stored_read(&wide, 0, 2, TR_BF16, rounded));
    CHECK_INT(rounded[0], 0x3dcd);
    CHECK_INT(rounded[1], 0x3f80);
    memcpy(at, whole, sizeof whole);
    tr_stored integers = {.name = "i32", .file = "x", .dtype = TR_I32, .elems = 2, .data = at};
    int32_t back[2];
    CHECK_OK(tr_stored_read(&integers, 0, 2, TR_I32, back));
    CHECK_INT(back[1], 8);
    CHECK_ERROR(tr_stored_read(&integers, 0, 2, TR_F32, out), "'i32' is I32, expected F32");
}

static void test_accepts(void)
{
    static const struct {
        const char *header;
        int64_t data_bytes, count;
    } good[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[3,7]}}",
         7, 2}, /* unaligned */
        {"{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
         "\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},"
         "\"a\":{\"dtype\":\"I32\",\"shape\":[1,1],\"data_offsets\":[0,4]}}",
         8, 3},
        {"{\"a\":{\"dtype\":\"BOOL\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, 1},
    };
    for (int64_t i = 0; i < TR_COUNT(good); i++) {
        tr_safetensors *file = NULL;
        CHECK_OK(parse(good[i].header, good[i].data_bytes, &file));
        if (file)
            CHECK_INT(tr_safetensors_count(file), good[i].count);
        tr_safetensors_close(file);
    }
}

static void test_refusals(void)
{
#define T(dtype, shape, offsets) \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header;
        int64_t data_bytes;
        const char *says;
    } bad[] = {
        {"[]", 0, "does not begin with '{'"},
        {"{", 0, "not a safetensors file"},
        {"{]", 0, "not valid JSON"},
        {"{\"a\":1}", 0, "tensor 'a': expected an object"},
        {"{\"a\":{}}", 0, "tensor 'a': 'dtype' is missing"},
        {"{\"__metadata__\":7}", 0, "__metadata__ must be an object"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "is empty"},
        {"{\"a\\n\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "control"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtyp\":1,\"shape\":[],\"data_offsets\":[0,4]}}", 4,
         "'dtype'?"},
        {T("\"F32\"", "[1]", "[0,4]") "x", 4, "not valid JSON"},
        {T("\"F8_E4M3\"", "[1]", "[0,4]"), 4, "dtype 'F8_E4M3' is not supported"},
        {T("\"f32\"", "[1]", "[0,4]"), 4, "dtype 'f32' is not supported"},
        {T("3", "[1]", "[0,4]"), 4, "'dtype' must be text"},
        {T("\"F32\"", "1", "[0,4]"), 4, "'shape' must be a list"},
        {T("\"F32\"", "[-1]", "[0,4]"), 4, "'shape' must be a list of whole numbers"},
        {T("\"F32\"", "[1.5]", "[0,4]"), 4, "'shape' must be a list of whole numbers"},
        {T("\"F32\"", "[\"1\"]", "[0,4]"), 4, "'shape' must be a list of whole numbers"},
        {T("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "9 dims, at most 8"},
        {T("\"F32\"", "[4294967296,4294967296]", "[0,4]"), 4, "too many elements"},
        {T("\"F32\"", "[4611686018427387904]", "[0,4]"), 4, "too many elements"},
        {T("\"F32\"", "[4611686018427387904,4611686018427387904,0]", "[0,0]"), 0,
         "too many elements"},
        {T("\"F32\"", "[99999999999999999999]", "[0,4]"), 4, "not valid JSON"},
        {T("\"F32\"", "[1]", "[0]"), 4, "two whole numbers"},
        {T("\"F32\"", "[1]", "[0,4,8]"), 4, "two whole numbers"},
        {T("\"F32\"", "[1]", "[0,4.0]"), 4, "two whole numbers"},
        {T("\"F32\"", "[1]", "[-4,0]"), 4, "lie outside"},
        {T("\"F32\"", "[1]", "[4,0]"), 4, "lie outside"},
        {T("\"F32\"", "[2]", "[0,8]"), 4,
         "lie outside the 4 bytes of data (is the file cut short?"},
        {T("\"F32\"", "[1]", "[0,9223372036854775807]"), 4, "lie outside"},
        {T("\"F32\"", "[2]", "[0,4]"), 4, "span 4 bytes, the shape needs 8"},
        {T("\"F32\"", "[1]", "[0,4]"), 5, "1 bytes follow the last tensor"},
        {T("\"F32\"", "[1]", "[4,8]"), 8, "leaves a gap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
         7, "'b' overlaps"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
         8, "duplicate"},
    };
#undef T
    for (int64_t i = 0; i < TR_COUNT(bad); i++) {
        tr_safetensors *file = NULL;
        CHECK_ERROR(parse(bad[i].header, bad[i].data_bytes, &file), bad[i].says);
        CHECK(file == NULL);
    }
    tr_safetensors *file;
    CHECK_ERROR(tr_safetensors_parse("", 0, "e.safetensors", &file), "only 0 bytes long");
    CHECK_ERROR(tr_safetensors_parse("\377\377\377\377\377\377\377\377{}", 10, "e", &file),
                "more than");
    CHECK_ERROR(tr_safetensors_parse("\20\0\0\0\0\0\0\0{}", 10, "e", &file), "cut short");
}

/* Every prefix of a good file is refused, and never read past. */
static void test_truncation(void)
{
    int64_t size;
    char *bytes =
        file_bytes("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, &size);
    for (int64_t n = 0; n < size; n++) {
        char *exact = tr_alloc((size_t)n); /* so that the address sanitizer sees a read too far */
        memcpy(exact, bytes, (size_t)n);
        tr_safetensors *file = NULL;
        tr_error *error = tr_safetensors_parse(exact, n, "cut", &file);
        CHECK(error && !file);
        tr_error_free(error);
        free(exact);
    }
    free(bytes);
}

static void save_one(const char *file_name, const char *tensor)
{
    float value[2] = {1, 2};
    char *path = in_scratch(file_name);
    CHECK_OK(tr_safetensors_save(path, &(tr_saved){tensor, TR_F32, 1, (int64_t[]){2}, value}, 1,
                                 NULL, NULL));
    free(path);
}

static void test_shards(void)
{
    static const struct {
        const char *index, *says;
    } bad[] = {
        {"{}", "'weight_map' is missing"},
        {"{\"weight_map\":[]}", "must be an object"},
        {"{\"weight_map\":{\"a\":3}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"../s/m1.safetensors\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"m3.safetensors\"}}", "cannot open"},
        {"{\"weight_map\":{\"a\":\"m1.safetensors\",\"c\":\"m1.safetensors\"}}",
         "'c' should be in"},
        {"{\"weight_map\":{\"c\":\"m1.safetensors\"}}", "not from the same model"},
        {"{\"weight_map\":{\"a\":\"m2.safetensors\",\"b\":\"m1.safetensors\"}}", "should be in"},
        {"{\"weight_map\":{\"a\":\"m1.safetensors\",\"b\":\"twin.safetensors\"}}", "and again in"},
        {"{\"weight_map\":{\"a\":\"m1.safetensors\",\"b\":", "not valid JSON"},
    };
    char *directory = in_scratch("s"), *index = in_scratch("s/model.safetensors.index.json");
    CHECK_OK(tr_directory_make(directory));
    tr_safetensors *file = NULL;
    CHECK_ERROR(tr_safetensors_open(directory, &file), "has no model.safetensors");
    save_one("s/pytorch_model.bin", "x");
    CHECK_ERROR(tr_safetensors_open(directory, &file), "safe_serialization");
    save_one("s/m1.safetensors", "a");
    save_one("s/m2.safetensors", "b");
    save_one("s/twin.safetensors", "a");
    static const char good[] =
        "{\"metadata\":{\"total_size\":16},"
        "\"weight_map\":{\"b\":\"m2.safetensors\",\"a\":\"m1.safetensors\"}}";
    CHECK_OK(tr_file_write(index, good, sizeof good - 1));
    CHECK_OK(tr_safetensors_open(directory, &file));
    if (file) {
        CHECK_INT(tr_safetensors_count(file), 2);
        CHECK(strstr(tr_safetensors_find(file, "b")->file, "s/m2.safetensors") != NULL);
    }
    tr_safetensors_close(file);
    file = NULL;
    for (int64_t i = 0; i < TR_COUNT(bad); i++) {
        CHECK_OK(tr_file_write(index, bad[i].index, (int64_t)strlen(bad[i].index)));
        CHECK_ERROR(tr_safetensors_open(index, &file), bad[i].says);
        CHECK(file == NULL);
    }
    free(directory), free(index);
}

static void test_writer_counts(void)
{
    char *path = in_scratch("counted.safetensors");
    const tr_saved saved = {"a", TR_F32, 1, (int64_t[]){4}, NULL};
    tr_safetensors_writer *writer = NULL;
    CHECK_OK(tr_safetensors_writer_open(path, &saved, 1, &writer));
    CHECK_OK(tr_safetensors_writer_write(writer, "12345678", 8));
    CHECK_ERROR(tr_safetensors_writer_commit_take(writer), "were declared");
    CHECK(!tr_path_exists(path));
    CHECK_OK(tr_safetensors_writer_open(path, &saved, 1, &writer));
    tr_safetensors_writer_drop(writer);
    CHECK(!tr_path_exists(path));
    const tr_saved twice[] = {saved, saved}, invalid = {"\xff", TR_F32, 1, (int64_t[]){4}, NULL};
    CHECK_ERROR(tr_safetensors_writer_open(path, twice, 2, &writer), "there twice");
    CHECK_ERROR(tr_safetensors_writer_open(path, &invalid, 1, &writer), "not UTF-8");
    free(path);
}

/* Many tensors: the lookup is not linear and the names are all found. */
static void test_many(void)
{
    enum { N = 5000 };
    tr_arena *arena = tr_arena_new();
    tr_saved *saved = tr_arena_alloc(arena, N * sizeof *saved);
    static const int64_t one[] = {1};
    float *values = tr_arena_alloc(arena, N * sizeof *values);
    for (int i = 0; i < N; i++) {
        values[i] = (float)i;
        saved[i] = (tr_saved){tr_arena_format(arena, "h.%d.w", (i * 7919) % N), TR_F32, 1, one,
                              &values[i]};
    }
    char *path = in_scratch("many.safetensors");
    CHECK_OK(tr_safetensors_save(path, saved, N, NULL, NULL));
    tr_safetensors *file = NULL;
    CHECK_OK(tr_safetensors_open(path, &file));
    for (int i = 0; i < N && file; i++) {
        const tr_stored *t = tr_safetensors_find(file, saved[i].name);
        CHECK(t && memcmp(t->data, &values[i], 4) == 0);
    }
    tr_safetensors_close(file);
    tr_arena_free(arena);
    free(path);
}

int main(void)
{
    char name[] = "/tmp/trireme-test-safetensors-XXXXXX";
    scratch = mkdtemp(name);
    TEST(test_round_trip);
    TEST(test_conversions);
    TEST(test_accepts);
    TEST(test_refusals);
    TEST(test_truncation);
    TEST(test_shards);
    TEST(test_writer_counts);
    TEST(test_many);
    tr_error_free(tr_path_remove(scratch));
    return check_report();
}
