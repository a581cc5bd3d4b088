/* Configs: keys, overrides, presets, defaults that depend on others, writing and reading back,
 * resuming, and the YAML tree underneath. What is said about wrong input is in wrong_inputs.txt. */
#include "train/config.h"

#include <unistd.h>

#include "base/cpu.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/yaml.h"
#include "check.h"

/* The config of `text` and up to 4 overrides. */
static tr_error *parse(const char *text, char *a, char *b, char *c, char *d, tr_config **out)
{
    char *words[4] = {a, b, c, d};
    int count = 0;
    while (count < 4 && words[count])
        count++;
    return tr_config_parse("test.yaml", text, (int64_t)strlen(text), words, count, out);
}

static void test_defaults(void)
{
    tr_config *c = NULL;
    CHECK_OK(tr_config_load(NULL, NULL, 0, &c));
    if (!c)
        return;
    CHECK_INT(c->model.sizes.layers, 6);
    CHECK_INT(c->model.sizes.mlp, 4 * c->model.sizes.embed);
    CHECK_INT(c->train.seq, c->model.sizes.context);
    CHECK_INT(c->train.micro_batch, c->train.batch);
    CHECK_INT(c->train.precision, TR_F32);
    CHECK_INT(c->optimizer.name, TR_ADAMW);
    CHECK_INT(c->schedule.name, TR_SCHEDULE_COSINE);
    CHECK_NEAR(c->optimizer.lr, 3e-4, 0);
    CHECK_NEAR(c->schedule.final_lr, 3e-5, 1e-12);
    CHECK_NEAR(c->data.val_split, 0.01, 0);
    CHECK_STRING(c->data.tokenizer, "bytes");
    CHECK_STRING(c->isa, "auto");
    CHECK_STRING(c->out, "runs/default");
    CHECK(!c->model.preset && !c->model.from && !c->data.cache && !c->data.train.count);
    CHECK(!tr_config_given(c, "train.steps"));
    CHECK_ERROR(tr_config_check_run(c), "data.train=FILE");
    tr_config_free(c);
    tr_config_free(NULL);
}

static void test_file_and_overrides(void)
{
    tr_config *c = NULL;
    CHECK_OK(parse("# a comment\n"
                   "model: {layers: 2, embed: 96, heads: 3}\n"
                   "train:\n  steps: 1_000\n  batch: 12\n  precision: bf16\n  recompute: cheap\n"
                   "optimizer.name: sgd\n"
                   "schedule: {name: wsd, warmup: 10}\n"
                   "data:\n",
                   "train.steps=2e3", "train.batch=6", "train.batch=4", "optimizer.lr=.5", &c));
    if (!c)
        return;
    CHECK_INT(c->model.sizes.embed, 96);
    CHECK_INT(c->model.sizes.mlp, 384);
    CHECK_INT(c->train.steps, 2000);
    CHECK_INT(c->train.batch, 4); /* the last one counts */
    CHECK_INT(c->train.micro_batch, 4);
    CHECK_INT(c->train.precision, TR_BF16);
    CHECK_INT(c->train.recompute, TR_RECOMPUTE_CHEAP);
    CHECK_INT(c->optimizer.name, TR_SGD);
    CHECK_INT(c->schedule.name, TR_SCHEDULE_WSD);
    CHECK_INT(c->schedule.decay, 400);
    CHECK_NEAR(c->schedule.final_lr, 0, 0);
    CHECK_NEAR(c->optimizer.lr, 0.5, 0);
    CHECK_STRING(c->out, "runs/test");
    CHECK(tr_config_given(c, "train.steps") && !tr_config_given(c, "train.seq"));
    CHECK_ERROR(tr_config_error(c, "train.precision", "not today"), "test.yaml:6:14: not today");
    CHECK_ERROR(tr_config_error(c, "train.steps", "not today"), "train.steps=2e3: not today");
    tr_config_free(c);

    /* null takes an override or a file's key back */
    CHECK_OK(
        parse("train: {steps: 7, seq: null}\n", "train.steps=null", "data.val=~", NULL, NULL, &c));
    CHECK_INT(c->train.steps, 1000);
    CHECK_INT(c->train.seq, 256);
    tr_config_free(c);
}

static void test_sources(void)
{
    tr_config *c = NULL;
    CHECK_OK(parse("data:\n  train: [a.txt, {path: b b.jsonl, weight: 2.5}]\n  val: 17\n", NULL,
                   NULL, NULL, NULL, &c));
    CHECK_INT(c->data.train.count, 2);
    CHECK_STRING(c->data.train.items[0].path, "a.txt");
    CHECK_NEAR(c->data.train.items[0].weight, 1, 0);
    CHECK_STRING(c->data.train.items[1].path, "b b.jsonl");
    CHECK_NEAR(c->data.train.items[1].weight, 2.5, 0);
    CHECK_STRING(c->data.val.items[0].path, "17"); /* a path may look like a number */
    CHECK_NEAR(c->data.val_split, 0, 0);
    tr_config_free(c);

    CHECK_OK(parse("", "data.train=x=y, z.txt", "data.val=[p, q]", "train.sample_prompt=\"a\\nb\"",
                   NULL, &c));
    CHECK_STRING(c->data.train.items[0].path, "x=y, z.txt");
    CHECK_INT(c->data.val.count, 2);
    CHECK_STRING(c->train.sample_prompt, "a\nb");
    tr_config_free(c);

    CHECK_OK(parse("", "data.val_split=0", NULL, NULL, NULL, &c));
    CHECK_INT(c->train.eval_every, 0); /* nothing to validate on */
    tr_config_free(c);
}

/* Parameters of a GPT with tied embeddings, by the textbook. */
static double parameters(const tr_config *c)
{
    double d = (double)c->model.sizes.embed, m = (double)c->model.sizes.mlp, layers = (double)c->model.sizes.layers;
    double layer = 4 * d * d + 4 * d + 2 * d * m + m + d + 4 * d;
    return layers * layer + (double)(c->model.sizes.vocab + c->model.sizes.context) * d + 2 * d;
}

static void test_presets(void)
{
    /* Millions, as the papers print them. GPT-2's paper miscounts its two smallest models (117 and
     * 345); the released weights have 124 and 355. */
    static const struct {
        const char *name, *canonical;
        double millions;
    } presets[] = {
        {"gpt2", "gpt2", 124},
        {"gpt2-medium", "gpt2-medium", 355},
        {"gpt2-large", "gpt2-large", 774},
        {"gpt2-xl", "gpt2-xl", 1558},
        {"gpt3-small", "gpt3-small", 125},
        {"gpt3-125m", "gpt3-small", 125},
        {"gpt3-350m", "gpt3-medium", 356},
        {"gpt3-760m", "gpt3-large", 760},
        {"gpt3-1.3b", "gpt3-xl", 1316},
        {"gpt3-2.7b", "gpt3-2.7b", 2652},
        {"gpt3-6.7b", "gpt3-6.7b", 6658},
        {"gpt3-13b", "gpt3-13b", 12853},
        {"gpt3-175b", "gpt3-175b", 174604},
    };
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        char word[64];
        tr_config *c = NULL;
        snprintf(word, sizeof word, "model.preset=%s", presets[i].name);
        CHECK_OK(parse("", word, NULL, NULL, NULL, &c));
        if (!c)
            continue;
        CHECK_STRING(c->model.preset, presets[i].canonical);
        CHECK_INT(c->model.sizes.embed % c->model.sizes.heads, 0);
        CHECK_INT(c->model.sizes.vocab, 50257);
        CHECK_NEAR(parameters(c) / 1e6, presets[i].millions, 0.6);
        tr_config_free(c);
    }
    tr_config *c = NULL;
    CHECK_OK(parse("model: {layers: 3, preset: gpt2}\n", "model.context=64", "model.banded=true",
                   NULL, NULL, &c));
    CHECK_INT(c->model.sizes.layers, 3); /* a key counts more than the preset, wherever it stands */
    CHECK_INT(c->model.sizes.context, 64);
    CHECK_INT(c->train.seq, 64);
    CHECK_INT(tr_config_sizes(c).band, 256);
    CHECK_INT(tr_config_sizes(c).embed, 768);
    tr_config_free(c);
}

static void test_schedule_defaults(void)
{
    tr_config *c = NULL;
    /* Short runs: warmup and decay never outgrow the steps. */
    for (int steps = 1; steps < 30; steps++) {
        for (int given = 0; given <= steps; given++) {
            char word[40], warmup[40], decay[40];
            snprintf(word, sizeof word, "train.steps=%d", steps);
            snprintf(warmup, sizeof warmup, "schedule.warmup=%d", given);
            snprintf(decay, sizeof decay, "schedule.decay=%d", given);
            CHECK_OK(parse("schedule: {name: wsd}\n", word, warmup, NULL, NULL, &c));
            CHECK(c->schedule.warmup + c->schedule.decay <= steps);
            tr_config_free(c);
            CHECK_OK(parse("schedule: {name: wsd}\n", word, decay, NULL, NULL, &c));
            CHECK(c->schedule.warmup + c->schedule.decay <= steps);
            tr_config_free(c);
        }
    }
}

/* A config's text must load to the same config. */
static void check_round_trip(const tr_config *c)
{
    char *text = tr_config_text(c);
    tr_config *again = NULL;
    CHECK_OK(tr_config_parse("again.yaml", text, (int64_t)strlen(text), NULL, 0, &again));
    if (again) {
        char *text_again = tr_config_text(again);
        CHECK_STRING(text_again, text);
        free(text_again);
        json_t *a = tr_config_json(c), *b = tr_config_json(again);
        CHECK(json_equal(a, b));
        json_decref(a);
        json_decref(b);
    }
    tr_config_free(again);
    free(text);
}

static void test_round_trip(void)
{
    tr_config *c = NULL;
    static char *const odd[] = {"null",     "~",       "true",
                                "12",       "- a",     "a: b",
                                "#x",       "x #y",    "'",
                                "a\\b",     "[a",      "\u00e9t\u00e9 \u6f22\u5b57 \U0001f600",
                                " spaces ", "a\tb\nc", "\u2028\xc2\x85\ufeff",
                                "%",        "&a",      "*b",
                                "!c",       "|",       ">",
                                "@",        "`",       "-",
                                ".",        "---",     "\x01"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        json_t *string = json_string(odd[i]);
        /* JSON's escapes are YAML's, but for the pairs that stand for an emoji */
        bool has_pair = strstr(odd[i], "\U0001f600") != NULL;
        char *quoted = json_dumps(string, JSON_ENCODE_ANY | (has_pair ? 0 : JSON_ENSURE_ASCII));
        char *word = tr_format("train.sample_prompt=%s", quoted);
        char *source = tr_format("data.train=[{path: %s, weight: 0.1}, x]", quoted);
        CHECK_OK(parse("seed: 7\n", word, source, NULL, NULL, &c));
        if (c) {
            CHECK_STRING(c->train.sample_prompt, odd[i]);
            check_round_trip(c);
        }
        tr_config_free(c);
        free(quoted);
        free(word);
        free(source);
        json_decref(string);
    }
    CHECK_OK(parse("model: {preset: gpt3-13b}\n", "optimizer.lr=0.1234567890123456789",
                   "train.clip=1e-300", "data.val=\u6f22\u5b57", "out=\"\\U0001F600\\x7f x\"", &c));
    check_round_trip(c);
    json_t *json = tr_config_json(c);
    CHECK_INT(json_integer_value(json_object_get(json_object_get(json, "model"), "layers")), 40);
    CHECK_STRING(json_string_value(json_object_get(json, "out")), "\U0001f600\x7f x");
    CHECK(json_is_null(json_object_get(json_object_get(json, "model"), "from")));
    json_decref(json);
    tr_config_free(c);
}

static void test_examples(void)
{
    char **names = NULL;
    int64_t count = 0, read = 0;
    CHECK_OK(tr_directory_list("examples", &names, &count));
    for (int64_t i = 0; i < count; i++) {
        size_t length = strlen(names[i]);
        if (length < 6 || strcmp(names[i] + length - 5, ".yaml") != 0)
            continue;
        char *path = tr_path_join("examples", names[i]);
        tr_config *c = NULL;
        CHECK_OK(tr_config_load(path, NULL, 0, &c));
        if (c)
            check_round_trip(c);
        tr_config_free(c);
        free(path);
        read++;
    }
    CHECK(read >= 3);
    tr_names_free(names, count);
}

static void test_resume(void)
{
    char directory[] = "/tmp/trireme-test-config-XXXXXX";
    CHECK(mkdtemp(directory));
    char *path = tr_path_join(directory, TR_CONFIG_NAME);
    char *checkpoint = tr_path_join(directory, "checkpoint"),
         *config = tr_path_join(checkpoint, "config.json");
    char *from = tr_format("model.from=%s", checkpoint);
    const char *json = "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 64, \"n_head\": 4, "
                       "\"n_positions\": 32, \"vocab_size\": 99, \"n_inner\": null}";
    CHECK_OK(tr_directory_make(checkpoint));
    CHECK_OK(tr_file_write(config, json, (int64_t)strlen(json)));

    tr_config *c = NULL;
    CHECK_OK(parse("train: {steps: 50}\n", from, "train.batch=6", NULL, NULL, &c));
    CHECK_INT(c->model.sizes.layers, 2);
    CHECK_INT(c->model.sizes.mlp, 256);
    CHECK_INT(c->model.sizes.vocab, 99);
    CHECK_INT(c->train.seq, 32);
    CHECK_STRING(c->data.tokenizer, checkpoint);
    check_round_trip(c);
    char *text = tr_config_text(c);
    CHECK_OK(tr_file_write(path, text, (int64_t)strlen(text)));
    free(text);
    tr_config_free(c);

    /* The run goes on when what it began from is gone, and where it is now. */
    CHECK_OK(tr_path_remove(checkpoint));
    char *overrides[] = {"train.steps=80", "model.layers=2"};
    CHECK_OK(tr_config_load_run(directory, overrides, 2, &c));
    CHECK_INT(c->train.steps, 80);
    CHECK_INT(c->train.batch, 6);
    CHECK_INT(c->model.sizes.embed, 64);
    CHECK_STRING(c->out, directory);
    tr_config_free(c);
    char *wrong[] = {"data.tokenizer=chars"};
    CHECK_ERROR(tr_config_load_run(directory, wrong, 1, &c), "cannot become chars");
    CHECK(!c);
    CHECK_OK(tr_path_remove(directory));
    free(path);
    free(checkpoint);
    free(config);
    free(from);
}

static void test_yaml_values(void)
{
    static const struct {
        const char *text;
        bool integer, real;
        double value;
    } cases[] = {
        {"12", true, true, 12},
        {"-3", true, true, -3},
        {"+4", true, true, 4},
        {"1_000", true, false, 1000},
        {"_1", false, false, 0},
        {"1_", false, false, 0},
        {"1__0", false, false, 0},
        {"1e3", true, true, 1000},
        {"1.5", false, true, 1.5},
        {"1e-4", false, true, 1e-4},
        {"0x10", false, false, 0},
        {"inf", false, false, 0},
        {".5", false, true, 0.5},
        {"5.", true, true, 5},
        {"-", false, false, 0},
        {"", false, false, 0},
        {"1e999", false, false, 0},
        {"1 2", false, false, 0},
        {"9223372036854775807", true, true, 9223372036854775807.0},
        {"9223372036854775808", false, true, 0x1p63},
    };
    tr_arena *arena = tr_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t integer = 0;
        double real = 0;
        tr_yaml *node = tr_yaml_scalar("test", cases[i].text, arena);
        bool is_integer = tr_yaml_integer(node, &integer), is_real = tr_yaml_real(node, &real);
        if (is_integer != cases[i].integer || is_real != cases[i].real)
            FAIL("'%s' is %d %d", cases[i].text, is_integer, is_real);
        if (is_integer)
            CHECK_NEAR((double)integer, cases[i].value, 0);
        if (is_real)
            CHECK_NEAR(real, cases[i].value, 0);
    }
    tr_arena_free(arena);
}

static void test_yaml_tree(void)
{
    const char *text = "a: 1\nb:\n  - x\n  - {c: 'y', d: }\n\"e f\": >\n  folded\n  text\n";
    tr_arena *arena = tr_arena_new();
    tr_yaml *root = NULL;
    CHECK_OK(tr_yaml_parse("t.yaml", text, (int64_t)strlen(text), arena, &root));
    if (root) {
        CHECK_INT(root->kind, TR_YAML_MAP);
        CHECK_INT(root->count, 3);
        const tr_yaml *b = tr_yaml_find(root, "b");
        CHECK_INT(b->kind, TR_YAML_LIST);
        CHECK_INT(b->key_line, 2);
        CHECK_INT(b->items[1]->line, 4);
        CHECK_INT(b->items[1]->column, 5);
        CHECK(b->items[1]->items[0]->quoted && !root->items[0]->quoted);
        CHECK(tr_yaml_is_null(b->items[1]->items[1]));
        CHECK_STRING(tr_yaml_find(root, "e f")->text, "folded text\n");
        CHECK(!tr_yaml_find(root, "g"));
        CHECK_ERROR(tr_yaml_error(b->items[0], "bad %s", "\n\x1b"), "t.yaml:3:5: bad ??");
        CHECK_ERROR(tr_yaml_key_error(b, "bad"), "t.yaml:2:1: bad");
    }
    CHECK_OK(tr_yaml_parse("t.yaml", "# nothing\n", 10, arena, &root));
    CHECK(root && tr_yaml_is_null(root));
    tr_arena_free(arena);
}

/* Every prefix of a good file, and every file with one byte changed: an error or a config. */
static void test_damage(void)
{
    char text[] =
        "model: {preset: gpt2}\ndata:\n  train: [a, {path: b, weight: 2}]\nout: \"x\\ty\"\n";
    int64_t size = (int64_t)sizeof text - 1;
    for (int64_t i = 0; i < size; i++) {
        for (int change = -1; change < 256; change += change < 0 ? 1 : 37) {
            char before = text[i];
            tr_config *c = NULL;
            if (change >= 0)
                text[i] = (char)change;
            tr_error *error = tr_config_parse("t.yaml", text, change < 0 ? i : size, NULL, 0, &c);
            CHECK(!error == !!c);
            if (error && tr_error_blame(error) != TR_USER)
                FAIL("byte %lld as %d: %s", (long long)i, change, tr_error_text(error));
            if (c)
                check_round_trip(c);
            tr_error_free(error);
            tr_config_free(c);
            text[i] = before;
        }
    }
}

static void test_help(void)
{
    char *help = tr_config_help();
    CHECK(strstr(help, "train.micro_batch") && strstr(help, "default: train.batch"));
    CHECK(strstr(help, "above 0") && strstr(help, "constant, linear, cosine, wsd"));
    free(help);
}

static void test_cpu(void)
{
    tr_isa isa;
    CHECK(tr_cpu_cores() >= 1);
    CHECK_OK(tr_isa_parse("portable", &isa));
    CHECK_INT(isa, TR_ISA_PORTABLE);
    CHECK_OK(tr_isa_parse("auto", &isa));
    CHECK_INT(isa, tr_cpu_isa_best());
    for (int i = 0; i < TR_ISA_COUNT; i++) {
        tr_error *error = tr_isa_parse(tr_isa_name((tr_isa)i), &isa);
        CHECK(!error == (i <= (int)tr_cpu_isa_best()));
        tr_error_free(error);
    }
    CHECK_ERROR(tr_isa_parse("avx512bf16", &isa), "did you mean avx512_bf16?");
    tr_memory_facts memory = tr_cpu_memory();
    CHECK(memory.available_bytes <= memory.total_bytes);
    char name[100];
    tr_cpu_name(name, sizeof name);
    CHECK(*name);
}

int main(void)
{
    TEST(test_defaults);
    TEST(test_file_and_overrides);
    TEST(test_sources);
    TEST(test_presets);
    TEST(test_schedule_defaults);
    TEST(test_round_trip);
    TEST(test_examples);
    TEST(test_resume);
    TEST(test_yaml_values);
    TEST(test_yaml_tree);
    TEST(test_damage);
    TEST(test_help);
    TEST(test_cpu);
    return check_report();
}
