/* The option parser; see options.h.
 *
 * One pass over argv: options are written through their rows' pointers, operands are moved to the
 * front of argv in their order. Cost O(arguments x options).
 */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/suggest.h"

tr_error *tr_usage_error(const tr_usage *usage, const char *format, ...)
{
    char text[2048]; /* the rest of a longer value is cut off */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return tr_error_new(TR_USER, "%s (see `trireme help %s`)", text, usage->name);
}

void tr_texts_free(tr_texts *texts)
{
    free(texts->items);
    *texts = (tr_texts){0};
}

/* The row of the option that is called name[0..length), or NULL. */
static const tr_option *find(const tr_usage *usage, const char *name, size_t length)
{
    for (int64_t i = 0; i < usage->count; i++)
        if (strlen(usage->options[i].name) == length &&
            memcmp(usage->options[i].name, name, length) == 0)
            return &usage->options[i];
    return NULL;
}

static const tr_option *find_letter(const tr_usage *usage, char letter)
{
    for (int64_t i = 0; i < usage->count; i++)
        if (usage->options[i].letter == letter)
            return &usage->options[i];
    return NULL;
}

static tr_error *unknown(const tr_usage *usage, const char *given, size_t length)
{
    if (memchr(given, '.', length) && strstr(usage->operands, "key=value"))
        return tr_usage_error(usage, "a key of the config is set without dashes: %s", given);
    char *name = tr_strndup(given, length);
    const char **names = tr_alloc_zero((size_t)usage->count + 1, sizeof *names);
    for (int64_t i = 0; i < usage->count; i++)
        names[i] = usage->options[i].name;
    names[usage->count] = "help";
    const char *near = tr_suggest(name, names, usage->count + 1);
    tr_error *error = near ? tr_usage_error(usage, "%s has no option --%s; did you mean --%s?",
                                            usage->name, name, near)
                           : tr_usage_error(usage, "%s has no option --%s", usage->name, name);
    free(name);
    free(names);
    return error;
}

static tr_error *out_of_range(const tr_usage *usage, const tr_option *option, const char *text)
{
    if (option->most == INFINITY)
        return tr_usage_error(usage, "--%s must be at least %.15g, not '%s'", option->name,
                              option->least, text);
    return tr_usage_error(usage, "--%s must be between %.15g and %.15g, not '%s'", option->name,
                          option->least, option->most, text);
}

static tr_error *choose(const tr_usage *usage, const tr_option *option, const char *text)
{
    tr_text list = {0};
    int64_t count = 0;
    for (; option->choices[count]; count++) {
        if (strcmp(option->choices[count], text) == 0) {
            tr_text_free(&list);
            return NULL;
        }
        tr_text_format(&list, "%s%s", count ? ", " : "", option->choices[count]);
    }
    const char *near = tr_suggest(text, option->choices, count);
    tr_error *error =
        near ? tr_usage_error(usage, "--%s cannot be '%s' (did you mean %s?); valid are: %s",
                              option->name, text, near, list.bytes)
             : tr_usage_error(usage, "--%s cannot be '%s'; valid are: %s", option->name, text,
                              list.bytes ? list.bytes : "none");
    tr_text_free(&list);
    return error;
}

static tr_error *set(const tr_usage *usage, const tr_option *option, const char *text)
{
    bool limited = option->least != 0 || option->most != 0;
    if (option->integer) {
        char *end;
        errno = 0;
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || errno)
            return tr_usage_error(usage, "--%s takes a whole number, not '%s'", option->name, text);
        if (limited && ((double)value < option->least || (double)value > option->most))
            return out_of_range(usage, option, text);
        *option->integer = value;
    } else if (option->real) {
        char *end;
        double value = strtod(text, &end);
        if (end == text || *end || !isfinite(value))
            return tr_usage_error(usage, "--%s takes a number, not '%s'", option->name, text);
        if (limited && (value < option->least || value > option->most))
            return out_of_range(usage, option, text);
        *option->real = value;
    } else {
        if (option->choices)
            TR_TRY(choose(usage, option, text));
        if (option->texts)
            tr_push(option->texts->items, option->texts->count, option->texts->room) = text;
        else
            *option->text = text;
    }
    return NULL;
}

/* True when `word` is spelled like one of the options, so that it cannot be the value of another.
 */
static bool is_option(const tr_usage *usage, const char *word)
{
    return word[0] == '-' && word[1] == '-' && find(usage, word + 2, strcspn(word + 2, "="));
}

tr_error *tr_options_parse(const tr_usage *usage, int argc, char **argv, tr_operands *out)
{
    *out = (tr_operands){.items = argv + 1};
    bool *seen = tr_alloc_zero((size_t)usage->count + 1, sizeof *seen);
    tr_error *error = NULL;
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (strcmp(word, "--") == 0) {
            while (++i < argc)
                out->items[out->count++] = argv[i];
            break;
        }
        if (word[0] != '-' || !word[1]) {
            out->items[out->count++] = word;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            tr_options_help(usage);
            out->help = true;
            goto done;
        }
        const tr_option *option;
        const char *value = NULL;
        if (word[1] == '-') {
            size_t length = strcspn(word + 2, "=");
            option = find(usage, word + 2, length);
            if (!option) {
                error = unknown(usage, word + 2, length);
                goto done;
            }
            if (word[2 + length])
                value = word + 3 + length;
        } else {
            option = word[2] ? NULL : find_letter(usage, word[1]);
            if (!option) {
                error =
                    tr_usage_error(usage, "%s has no option %s; long options start with two dashes",
                                   usage->name, word);
                goto done;
            }
        }
        if (seen[option - usage->options] && !option->texts) {
            error = tr_usage_error(usage, "--%s is given twice", option->name);
            goto done;
        }
        seen[option - usage->options] = true;
        if (option->flag) {
            if (value) {
                error =
                    tr_usage_error(usage, "--%s takes no value, but has '%s'", option->name, value);
                goto done;
            }
            *option->flag = true;
            continue;
        }
        if (!value && i + 1 < argc && !is_option(usage, argv[i + 1]))
            value = argv[++i];
        if (!value) {
            error = tr_usage_error(usage, "--%s needs a value: --%s=%s", option->name, option->name,
                                   option->argument);
            goto done;
        }
        TR_GO(set(usage, option, value));
    }
    if (out->count < usage->min)
        error = tr_usage_error(usage, "%s needs %s", usage->name, usage->operands);
    else if (usage->max >= 0 && out->count > usage->max)
        error = usage->max ? tr_usage_error(usage, "%s takes only %s, so '%s' is too much",
                                            usage->name, usage->operands, out->items[usage->max])
                           : tr_usage_error(usage, "%s takes no operands, but was given '%s'",
                                            usage->name, out->items[0]);
done:
    free(seen);
    return error;
}

/* Prints `text` from column `indent` on, broken at spaces so that lines end before column 96. */
static void print_wrapped(const char *text, int indent, int column)
{
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column + (int)word > 96 && column > indent) {
            printf("\n%*s", indent, "");
            column = indent;
        }
        printf("%.*s", (int)word, text);
        column += (int)word;
        text += word;
        if (*text == ' ') {
            putchar(' ');
            column++;
            text++;
        }
    }
    putchar('\n');
}

static void print_lines(const char *text)
{
    while (text && *text) {
        size_t length = strcspn(text, "\n");
        printf(length ? "  %.*s\n" : "%.*s\n", (int)length, text);
        text += length + (text[length] != 0);
    }
}

void tr_options_help(const tr_usage *usage)
{
    printf("trireme %s: %s\n\nUsage: trireme %s [option ...]%s%s\n", usage->name, usage->summary,
           usage->name, usage->operands[0] ? " " : "", usage->operands);
    int width = 6;
    for (int64_t i = 0; i < usage->count; i++) {
        const tr_option *option = &usage->options[i];
        int length =
            (int)strlen(option->name) + (option->argument ? 1 + (int)strlen(option->argument) : 0);
        width = TR_MAX(width, length);
    }
    printf("\nOptions:\n");
    for (int64_t i = 0; i < usage->count; i++) {
        const tr_option *option = &usage->options[i];
        int used = option->letter ? printf("  -%c, ", option->letter) : printf("      ");
        used += printf("--%s%s%s", option->name, option->argument ? "=" : "",
                       option->argument ? option->argument : "");
        printf("%*s", 6 + 2 + width + 2 - used, "");
        print_wrapped(option->help, 6 + 2 + width + 2, 6 + 2 + width + 2);
    }
    printf("  -h, --help%*sprint this\n", 6 + 2 + width + 2 - 12, "");
    if (usage->notes) {
        putchar('\n');
        print_lines(usage->notes);
    }
    printf("\nExample:\n");
    print_lines(usage->examples);
}
