/* The pattern compiler and matcher; see pattern.h.
 *
 * A pattern becomes a list of instructions; matching walks it with a stack of places to come back to.
 *   SPAN set least most   takes as many characters of the set as it can; coming back gives them up one by one
 *   SPLIT other           goes on with the next instruction, later from `other`
 *   JUMP other
 *   AHEAD other, AHEAD_END, NOT_AHEAD other, NOT_AHEAD_END: what is between must, or must not, match here
 *   MATCH
 * A set is a bitmap of ASCII and tests for the others, in order: a range of code points, a category, white space.
 */
#include "data/pattern.h"

#include "data/unicode.h"

typedef enum opcode { SPAN, SPLIT, JUMP, AHEAD, NOT_AHEAD, AHEAD_END, NOT_AHEAD_END, MATCH } opcode;
enum { TEST_RANGE, TEST_CATEGORIES, TEST_NOT_CATEGORIES, TEST_SPACE, TEST_NOT_SPACE };
enum { NO_LIMIT = INT32_MAX, DEEPEST = 32, MOST_CODE = 1 << 14 };

typedef struct test {
    int kind;
    uint32_t first, last; /* categories: a bit each, in `first` */
} test;
typedef struct set {
    bool ascii[128], negated;
    int64_t from, count; /* tests */
} set;
typedef struct instruction {
    opcode op;
    int32_t other, least, most; /* SPAN: other is its set */
} instruction;

struct tr_pattern {
    instruction *code;
    int64_t count, room;
    set *sets;
    int64_t set_count, set_room;
    test *tests;
    int64_t test_count, test_room;
};

typedef struct parser {
    tr_pattern *out;
    const char *source, *p, *where;
    int depth;
    bool any_case;
} parser;

static tr_error *refuse(const parser *s, const char *what)
{
    return tr_error_new(TR_USER, "%s: the pattern %s has %s at byte %lld, which is not supported", s->where,
                        s->source, what, (long long)(s->p - s->source));
}

static int64_t emit(parser *s, opcode op, int32_t other, int32_t least, int32_t most)
{
    tr_push(s->out->code, s->out->count, s->out->room) = (instruction){op, other, least, most};
    return s->out->count - 1;
}

static bool passes(const test *t, uint32_t code)
{
    bool space = tr_unicode_class_of(code) == TR_UNICODE_SPACE;
    switch (t->kind) {
    case TEST_RANGE:
        return code >= t->first && code <= t->last;
    case TEST_SPACE:
        return space;
    case TEST_NOT_SPACE:
        return !space;
    }
    bool in = code < 0x110000 && (t->first >> tr_unicode_category(code) & 1);
    return in == (t->kind == TEST_CATEGORIES);
}

static bool in_set(const tr_pattern *p, const set *s, uint32_t code)
{
    if (code < 128)
        return s->ascii[code];
    bool in = false;
    for (int64_t i = 0; i < s->count && !in; i++)
        in = passes(&p->tests[s->from + i], code);
    return in != s->negated;
}

static void add_test(parser *s, int kind, uint32_t first, uint32_t last)
{
    tr_push(s->out->tests, s->out->test_count, s->out->test_room) = (test){kind, first, last};
}

/* One character, in both cases when asked; U+017F and U+212A fold to s and k. */
static void add_character(parser *s, uint32_t code)
{
    add_test(s, TEST_RANGE, code, code);
    if (!s->any_case || code >= 128)
        return;
    uint32_t lower = code | 32;
    if (lower < 'a' || lower > 'z')
        return;
    add_test(s, TEST_RANGE, code ^ 32, code ^ 32);
    if (lower == 's' || lower == 'k')
        add_test(s, TEST_RANGE, lower == 's' ? 0x17F : 0x212A, lower == 's' ? 0x17F : 0x212A);
}

/* \p{L}, \p{Lu}, \P{..}, after the p. */
static tr_error *parse_property(parser *s, bool negated)
{
    const char *close = *s->p == '{' ? strchr(s->p, '}') : NULL;
    char name[3] = "";
    if (!close || close - s->p < 2 || close - s->p > 3)
        return refuse(s, "a property other than a general category");
    memcpy(name, s->p + 1, (size_t)(close - s->p - 1));
    static const char second[] = "ultmonceudlkpsaifn";
    uint32_t bits = 0;
    char full[3] = {name[0], 0, 0};
    for (const char *c = second; *c; c++) {
        full[1] = *c;
        int category = tr_unicode_category_named(full);
        if (category >= 0 && (!name[1] || name[1] == *c))
            bits |= (uint32_t)1 << category;
    }
    if (!bits)
        return refuse(s, "an unknown property");
    add_test(s, negated ? TEST_NOT_CATEGORIES : TEST_CATEGORIES, bits, 0);
    s->p = close + 1;
    return NULL;
}

/* What follows a backslash: a class (then *out_code stays untouched and *out_class is true) or one character. */
static tr_error *parse_escape(parser *s, uint32_t *out_code, bool *out_class)
{
    char c = *s->p++;
    *out_class = true;
    switch (c) {
    case 'p':
    case 'P':
        return parse_property(s, c == 'P');
    case 's':
    case 'S':
        add_test(s, c == 's' ? TEST_SPACE : TEST_NOT_SPACE, 0, 0);
        return NULL;
    case 'd':
    case 'D':
        add_test(s, c == 'd' ? TEST_CATEGORIES : TEST_NOT_CATEGORIES, (uint32_t)1 << tr_unicode_category_named("Nd"),
                 0);
        return NULL;
    }
    *out_class = false;
    static const char letters[] = "rntfv", codes[] = "\r\n\t\f\v";
    const char *found = c ? strchr(letters, c) : NULL;
    if (found) {
        *out_code = (uint8_t)codes[found - letters];
        return NULL;
    }
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || !c || (uint8_t)c >= 128) {
        s->p--;
        return refuse(s, "an escape");
    }
    *out_code = (uint8_t)c;
    return NULL;
}

static tr_error *parse_code(parser *s, uint32_t *out)
{
    int n = tr_utf8_decode(s->p, s->p + strlen(s->p), out);
    if (!n)
        return refuse(s, "a byte that is not UTF-8");
    s->p += n;
    return NULL;
}

static tr_error *parse_members(parser *s)
{
    for (bool any = false; *s->p != ']' || !any; any = true) {
        uint32_t first = 0, last = 0;
        bool class = false;
        if (!*s->p)
            return refuse(s, "a set without its end");
        if (*s->p == '[' || (*s->p == '&' && s->p[1] == '&'))
            return refuse(s, "a set in a set");
        if (*s->p == '\\') {
            s->p++;
            TR_TRY(parse_escape(s, &first, &class));
        } else {
            TR_TRY(parse_code(s, &first));
        }
        if (class)
            continue;
        if (*s->p != '-' || s->p[1] == ']') {
            add_character(s, first);
            continue;
        }
        s->p++;
        if (*s->p == '\\') {
            s->p++;
            TR_TRY(parse_escape(s, &last, &class));
        } else {
            TR_TRY(parse_code(s, &last));
        }
        if (class || last < first || s->any_case)
            return refuse(s, "a range");
        add_test(s, TEST_RANGE, first, last);
    }
    s->p++;
    return NULL;
}

/* A set or a character; its number into *out. */
static tr_error *parse_set(parser *s, int32_t *out)
{
    set made = {.from = s->out->test_count};
    uint32_t code = 0;
    bool class = false;
    if (*s->p == '[') {
        s->p++;
        made.negated = *s->p == '^';
        s->p += made.negated;
        TR_TRY(parse_members(s));
    } else if (*s->p == '.') {
        s->p++;
        made.negated = true;
        add_test(s, TEST_RANGE, '\n', '\n');
    } else if (*s->p == '\\') {
        s->p++;
        TR_TRY(parse_escape(s, &code, &class));
        if (!class)
            add_character(s, code);
    } else {
        TR_TRY(parse_code(s, &code));
        add_character(s, code);
    }
    made.count = s->out->test_count - made.from;
    for (uint32_t c = 0; c < 128; c++) {
        bool in = false;
        for (int64_t i = 0; i < made.count; i++)
            in = in || passes(&s->out->tests[made.from + i], c);
        made.ascii[c] = in != made.negated;
    }
    *out = (int32_t)s->out->set_count;
    tr_push(s->out->sets, s->out->set_count, s->out->set_room) = made;
    return NULL;
}

/* A quantifier, or none. */
static tr_error *parse_quantifier(parser *s, int32_t *least, int32_t *most)
{
    *least = *most = 1;
    const char *p = s->p;
    if (*p == '?' || *p == '*' || *p == '+') {
        *least = *p == '+';
        *most = *p == '?' ? 1 : NO_LIMIT;
        p++;
    } else if (*p == '{' && p[1] >= '0' && p[1] <= '9') {
        char *rest;
        long low = strtol(p + 1, &rest, 10), high = low;
        if (*rest == ',') {
            bool open = rest[1] == '}';
            high = open ? NO_LIMIT : strtol(rest + 1, &rest, 10);
            rest += open;
        }
        if (*rest != '}' || low < 0 || low > 1000 || high < low || (high > 1000 && high != NO_LIMIT))
            return refuse(s, "a quantifier");
        *least = (int32_t)low;
        *most = (int32_t)high;
        p = rest + 1;
    }
    if (p != s->p && (*p == '?' || *p == '+' || *p == '*'))
        return refuse(s, "a lazy or possessive quantifier");
    s->p = p;
    return NULL;
}

static tr_error *parse_alternatives(parser *s);

static tr_error *parse_group(parser *s)
{
    bool any_case = s->any_case;
    opcode look = MATCH;
    s->p++;
    if (*s->p == '?') {
        if (s->p[1] == ':')
            s->p += 2;
        else if (s->p[1] == 'i' && s->p[2] == ':') {
            s->any_case = true;
            s->p += 3;
        } else if (s->p[1] == '!' || s->p[1] == '=') {
            look = s->p[1] == '!' ? NOT_AHEAD : AHEAD;
            s->p += 2;
        } else {
            return refuse(s, "a group of this kind");
        }
    }
    int64_t start = look != MATCH ? emit(s, look, 0, 0, 0) : emit(s, JUMP, (int32_t)s->out->count + 1, 0, 0);
    if (++s->depth > DEEPEST)
        return refuse(s, "groups too deep in each other");
    TR_TRY(parse_alternatives(s));
    s->depth--;
    if (*s->p != ')')
        return refuse(s, "a group without its end");
    s->p++;
    s->any_case = any_case;
    if (look != MATCH)
        emit(s, look == AHEAD ? AHEAD_END : NOT_AHEAD_END, 0, 0, 0);
    s->out->code[start].other = (int32_t)(look != MATCH ? s->out->count : start + 1);
    if (look == MATCH && *s->p == '?') {
        s->out->code[start] = (instruction){SPLIT, (int32_t)s->out->count, 0, 0};
        s->p++;
    }
    if (*s->p == '*' || *s->p == '+' || *s->p == '?' || *s->p == '{')
        return refuse(s, "this quantifier after a group");
    return NULL;
}

static tr_error *parse_sequence(parser *s)
{
    while (*s->p && *s->p != '|' && *s->p != ')') {
        if (s->out->count > MOST_CODE)
            return refuse(s, "too many parts");
        if (strchr("*+?^$", *s->p))
            return refuse(s, "an operator");
        if (*s->p == '(') {
            TR_TRY(parse_group(s));
            continue;
        }
        int32_t number, least, most;
        TR_TRY(parse_set(s, &number));
        TR_TRY(parse_quantifier(s, &least, &most));
        emit(s, SPAN, number, least, most);
    }
    return NULL;
}

/* SPLIT next; first; JUMP end; SPLIT next; second; JUMP end; last; end. */
static tr_error *parse_alternatives(parser *s)
{
    int64_t jumps[64];
    int64_t count = 0;
    for (;;) {
        /* Whether another alternative follows is known only at its end: a jump to the next stands until then. */
        int64_t start = emit(s, JUMP, (int32_t)s->out->count + 1, 0, 0);
        TR_TRY(parse_sequence(s));
        if (*s->p != '|')
            break;
        s->p++;
        if (count == TR_COUNT(jumps))
            return refuse(s, "too many alternatives");
        jumps[count++] = emit(s, JUMP, 0, 0, 0);
        s->out->code[start] = (instruction){SPLIT, (int32_t)s->out->count, 0, 0};
    }
    for (int64_t i = 0; i < count; i++)
        s->out->code[jumps[i]].other = (int32_t)s->out->count;
    return NULL;
}

tr_error *tr_pattern_new(const char *source, const char *where, tr_pattern **out)
{
    *out = tr_alloc_zero(1, sizeof **out);
    parser s = {*out, source, source, where, 0, false};
    tr_error *error = parse_alternatives(&s);
    if (!error && *s.p)
        error = refuse(&s, "a ) without its (");
    emit(&s, MATCH, 0, 0, 0);
    if (error) {
        tr_pattern_free(*out);
        *out = NULL;
    }
    return error;
}

void tr_pattern_free(tr_pattern *p)
{
    if (!p)
        return;
    free(p->code);
    free(p->sets);
    free(p->tests);
    free(p);
}

/* Where to come back to: `least` is where a span must not give up more, NULL when it is no span. */
typedef struct place {
    int64_t at;
    const char *p, *least;
} place;
typedef struct places {
    place *items, first[64];
    int64_t count, room;
} places;

static void remember(places *s, int64_t at, const char *p, const char *least)
{
    if (s->count == s->room) {
        place *more = tr_realloc(NULL, (size_t)(2 * s->room), sizeof *more);
        memcpy(more, s->items, (size_t)s->count * sizeof *more);
        if (s->items != s->first)
            free(s->items);
        s->items = more;
        s->room *= 2;
    }
    s->items[s->count++] = (place){at, p, least};
}

static inline int decode(const char *p, const char *end, uint32_t *code)
{
    *code = (uint8_t)*p;
    if (*code < 128)
        return 1;
    int n = tr_utf8_decode(p, end, code);
    if (n)
        return n;
    *code = 0x110000;
    return 1;
}

/* The start of the character before p, as `decode` would have stepped from `least` on. */
static const char *step_back(const char *least, const char *p, const char *end)
{
    uint32_t code;
    for (int back = TR_MIN(4, (int)TR_MIN(p - least, 4)); back > 1; back--)
        if (tr_utf8_decode(p - back, end, &code) == back)
            return p - back;
    return p - 1;
}

static const char *run_code(const tr_pattern *pattern, int64_t at, const char *p, const char *end, places *stack);

static const char *look_ahead(const tr_pattern *pattern, int64_t at, const char *p, const char *end)
{
    places stack; /* `first` is not worth clearing for each match */
    stack.items = stack.first;
    stack.count = 0;
    stack.room = TR_COUNT(stack.first);
    const char *found = run_code(pattern, at, p, end, &stack);
    if (stack.items != stack.first)
        free(stack.items);
    return found;
}

static const char *run_code(const tr_pattern *pattern, int64_t at, const char *p, const char *end, places *stack)
{
    for (;;) {
        const instruction *i = &pattern->code[at];
        bool fail = false;
        switch (i->op) {
        case SPAN: {
            const set *s = &pattern->sets[i->other];
            const char *least = i->least ? NULL : p;
            for (int32_t taken = 0; taken < i->most && p < end; taken++) {
                uint32_t code;
                int n = decode(p, end, &code);
                if (!in_set(pattern, s, code))
                    break;
                p += n;
                if (taken + 1 == i->least)
                    least = p;
            }
            fail = !least;
            if (!fail && p > least)
                remember(stack, at + 1, p, least);
            at++;
            break;
        }
        case SPLIT:
            remember(stack, i->other, p, NULL);
            at++;
            break;
        case JUMP:
            at = i->other;
            break;
        case AHEAD:
        case NOT_AHEAD:
            fail = (look_ahead(pattern, at + 1, p, end) != NULL) == (i->op == NOT_AHEAD);
            at = i->other;
            break;
        case AHEAD_END:
        case NOT_AHEAD_END:
        case MATCH:
            return p;
        }
        if (!fail)
            continue;
        if (!stack->count)
            return NULL;
        place *top = &stack->items[stack->count - 1];
        at = top->at;
        if (top->least) {
            p = step_back(top->least, top->p, end);
            top->p = p;
            stack->count -= p == top->least;
        } else {
            p = top->p;
            stack->count--;
        }
    }
}

const char *tr_pattern_match(const tr_pattern *pattern, const char *p, const char *end)
{
    return look_ahead(pattern, 0, p, end);
}
