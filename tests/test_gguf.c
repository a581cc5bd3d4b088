/* GGUF files: metadata, every quantised type against its formula, and files that end anywhere. */
#include "check.h"

#include "data/gguf.h"

typedef struct file {
    unsigned char bytes[8192];
    int64_t size;
} file;

static void add(file *f, const void *bytes, size_t n)
{
    memcpy(f->bytes + f->size, bytes, n);
    f->size += (int64_t)n;
}

static void add_u32(file *f, uint32_t value)
{
    add(f, &value, sizeof value);
}

static void add_u64(file *f, uint64_t value)
{
    add(f, &value, sizeof value);
}

static void add_text(file *f, const char *text)
{
    add_u64(f, strlen(text));
    add(f, text, strlen(text));
}

static void add_tensor(file *f, const char *name, uint32_t type, uint64_t offset)
{
    add_text(f, name);
    add_u32(f, 2);
    add_u64(f, 32); /* innermost first */
    add_u64(f, 2);
    add_u32(f, type);
    add_u64(f, offset);
}

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, TYPES = 7 };
static const struct {
    const char *name;
    uint32_t type;
    int bytes; /* of a row of 32 */
} tensors[TYPES] = {{"f32", F32, 128}, {"f16", F16, 64},   {"q4_0", Q4_0, 18}, {"q4_1", Q4_1, 20},
                    {"q5_0", Q5_0, 22}, {"q5_1", Q5_1, 24}, {"q8_0", Q8_0, 34}};

/* Byte k of a tensor's data. Scales (the first two bytes of a block, and the next two of *_1) are 0.5 and 2 as f16. */
static unsigned char byte_of(int t, int k)
{
    static const unsigned char half[] = {0x00, 0x38}, two[] = {0x00, 0x40};
    int at = k % tensors[t].bytes;
    bool has_minimum = tensors[t].type == Q4_1 || tensors[t].type == Q5_1;
    if (tensors[t].type == F32)
        return at % 4 == 3 ? 0x3f : at % 4 == 2 ? 0x80 : 0; /* 1 */
    if (tensors[t].type == F16)
        return half[at % 2];
    if (at < 2)
        return half[at];
    if (at < 4 && has_minimum)
        return two[at - 2];
    return (unsigned char)(k * 37 + 11);
}

static file make(void)
{
    file f = {.size = 0};
    add(&f, "GGUF", 4);
    add_u32(&f, 3);
    add_u64(&f, TYPES);
    add_u64(&f, 5);
    add_text(&f, "general.architecture");
    add_u32(&f, 8);
    add_text(&f, "llama");
    add_text(&f, "small");
    add_u32(&f, 1); /* i8 */
    add(&f, "\xfe", 1);
    add_text(&f, "eps");
    add_u32(&f, 6);
    add(&f, &(float){0.25f}, 4);
    add_text(&f, "flag");
    add_u32(&f, 7);
    add(&f, "\1", 1);
    add_text(&f, "words");
    add_u32(&f, 9);
    add_u32(&f, 8);
    add_u64(&f, 2);
    add_text(&f, "oar");
    add_text(&f, "mast");
    uint64_t offset = 0;
    for (int t = 0; t < TYPES; t++) {
        add_tensor(&f, tensors[t].name, tensors[t].type, offset);
        offset += (uint64_t)(2 * tensors[t].bytes + 31) / 32 * 32;
    }
    while (f.size % 32)
        add(&f, "", 1);
    for (int t = 0; t < TYPES; t++) {
        for (int k = 0; k < 2 * tensors[t].bytes; k++)
            add(&f, &(unsigned char){byte_of(t, k)}, 1);
        while (f.size % 32)
            add(&f, "", 1);
    }
    return f;
}

static void test_metadata(void)
{
    file f = make();
    tr_gguf *g = NULL;
    tr_gguf_text text;
    tr_gguf_array words;
    int64_t integer = 0;
    double real = 0;
    bool flag = false;
    CHECK_OK(tr_gguf_parse(f.bytes, f.size, "made.gguf", &g));
    CHECK(tr_gguf_string(g, "general.architecture", &text) && text.length == 5 && memcmp(text.bytes, "llama", 5) == 0);
    CHECK(tr_gguf_int(g, "small", &integer) && integer == -2);
    CHECK(tr_gguf_real(g, "eps", &real) && real == 0.25);
    CHECK(tr_gguf_bool(g, "flag", &flag) && flag);
    CHECK(!tr_gguf_int(g, "eps", &integer) && !tr_gguf_int(g, "nothing", &integer));
    CHECK(tr_gguf_array_find(g, "words", &words) && words.count == 2 && words.kind == TR_GGUF_TEXT);
    text = tr_gguf_array_text(&words, 1);
    CHECK(text.length == 4 && memcmp(text.bytes, "mast", 4) == 0);
    tr_gguf_close(g);
}

/* Element j of row r, from the formulas of the format's page. */
static float want(int t, int r, int j)
{
    int base = r * tensors[t].bytes, low = j < 16, header = tensors[t].type == Q4_0 || tensors[t].type == Q5_0 ? 2 : 4;
    bool five = tensors[t].type == Q5_0 || tensors[t].type == Q5_1;
    if (tensors[t].type == F32 || tensors[t].type == F16)
        return tensors[t].type == F32 ? 1 : 0.5f;
    if (tensors[t].type == Q8_0)
        return 0.5f * (float)(int8_t)byte_of(t, base + 2 + j);
    int quant = byte_of(t, base + header + (five ? 4 : 0) + j % 16);
    quant = low ? quant & 15 : quant >> 4;
    if (five)
        quant |= (byte_of(t, base + header + j / 8) >> (j % 8) & 1) << 4;
    if (header == 2)
        return 0.5f * (float)(quant - (five ? 16 : 8));
    return 0.5f * (float)quant + 2;
}

static void test_tensors(void)
{
    file f = make();
    tr_gguf *g = NULL;
    tr_stored *list = NULL;
    int64_t count = 0;
    CHECK_OK(tr_gguf_parse(f.bytes, f.size, "made.gguf", &g));
    CHECK_OK(tr_gguf_tensors(g, &list, &count));
    CHECK_INT(count, TYPES);
    for (int64_t i = 0; i < count; i++) {
        int t = 0;
        while (strcmp(tensors[t].name, list[i].name) != 0)
            t++;
        float all[64], some[41];
        CHECK(list[i].rank == 2 && list[i].dims[0] == 2 && list[i].dims[1] == 32);
        CHECK_OK(tr_stored_read(&list[i], 0, 64, TR_F32, all));
        CHECK_OK(tr_stored_read(&list[i], 7, 41, TR_F32, some)); /* across a block */
        for (int k = 0; k < 64; k++)
            if (all[k] != want(t, k / 32, k % 32))
                FAIL("%s: element %d is %g, expected %g", list[i].name, k, all[k], want(t, k / 32, k % 32));
        CHECK(memcmp(some, all + 7, sizeof some) == 0);
    }
    free(list);
    tr_gguf_close(g);
}

/* Every quantised type against llama.cpp's own package, bit for bit: tools/golden_gguf.py. */
static void test_blocks(void)
{
    enum { TYPES_THERE = 10, MOST = 512 };
    tr_gguf *g = NULL;
    tr_stored *list = NULL;
    int64_t count = 0, compared = 0;
    CHECK_OK(tr_gguf_open("tests/golden/blocks.gguf", &g));
    CHECK_OK(tr_gguf_tensors(g, &list, &count));
    CHECK_INT(count, 2 * TYPES_THERE);
    for (int64_t i = 0; i < count; i++)
        for (int64_t v = 0; v < count; v++) {
            size_t n = strlen(list[i].name);
            float ours[MOST], theirs[MOST];
            if (strncmp(list[v].name, list[i].name, n) != 0 || strcmp(list[v].name + n, ".values") != 0)
                continue;
            compared++;
            CHECK(list[i].elems == list[v].elems && list[i].elems <= MOST);
            CHECK_OK(tr_stored_read(&list[i], 0, list[i].elems, TR_F32, ours));
            CHECK_OK(tr_stored_read(&list[v], 0, list[v].elems, TR_F32, theirs));
            for (int64_t k = 0; k < list[i].elems; k++)
                if (ours[k] != theirs[k])
                    FAIL("%s: element %lld is %.9g, expected %.9g", list[i].name, (long long)k, (double)ours[k],
                         (double)theirs[k]);
        }
    CHECK_INT(compared, TYPES_THERE);
    free(list);
    tr_gguf_close(g);
}

/* A file that ends anywhere is refused, in its header or with its tensors. */
static void test_cut_off(void)
{
    file f = make();
    for (int64_t n = 0; n < f.size - 32; n++) {
        unsigned char *bytes = malloc((size_t)n + 1); /* so that a sanitizer sees what is read beyond */
        tr_gguf *g = NULL;
        tr_stored *list = NULL;
        int64_t count;
        memcpy(bytes, f.bytes, (size_t)n);
        tr_error *error = tr_gguf_parse(bytes, n, "made.gguf", &g);
        if (!error)
            error = tr_gguf_tensors(g, &list, &count);
        CHECK(error && tr_error_exit_status(error) == 2);
        tr_error_free(error);
        free(list);
        tr_gguf_close(g);
        free(bytes);
    }
}

static void test_refused(void)
{
    tr_gguf *g = NULL;
    file f = make();
    f.bytes[4] = 9;
    CHECK_ERROR(tr_gguf_parse(f.bytes, f.size, "made.gguf", &g), "version 9");
    f = make();
    memset(f.bytes + 16, 0xff, 8);
    CHECK_ERROR(tr_gguf_parse(f.bytes, f.size, "made.gguf", &g), "cut off or damaged");
}

int main(void)
{
    TEST(test_metadata);
    TEST(test_tensors);
    TEST(test_blocks);
    TEST(test_cut_off);
    TEST(test_refused);
    return check_report();
}
