/* args.c - words to option values, checked against the rows of the command. */
#include "cli/args.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/suggest.h"
#include "core/memory.h"
#include "core/number.h"

const csp_option csp_common_options[] = {
    { .name = "help", .letter = 'h', .kind = CSP_OPTION_FLAG, .help = "print this text" },
    { .name = "quiet", .letter = 'q', .kind = CSP_OPTION_FLAG, .help = "warnings only on stderr" },
    { .name = "verbose", .letter = 'v', .kind = CSP_OPTION_FLAG, .help = "more lines on stderr" },
    { .name = "no-progress",
      .kind = CSP_OPTION_FLAG,
      .help = "whole lines in place of a progress line" },
};
const int csp_common_option_count = CSP_COUNT(csp_common_options);

/* One occurrence of an option on the command line. */
typedef struct given_option {
    const csp_option *option;
    const char *text; /* NULL for a flag */
} given_option;

struct csp_arguments {
    const csp_command *command;
    given_option *given; /* in command line order */
    int given_count;
    const char **positional;
    int positional_count;
};

static const csp_option *option_at(const csp_command *command, int index)
{
    return index < command->option_count ? &command->options[index]
                                         : &csp_common_options[index - command->option_count];
}

static int option_total(const csp_command *command)
{
    return command->option_count + csp_common_option_count;
}

static const csp_option *find_by_name(const csp_command *command, const char *name, size_t bytes)
{
    for (int i = 0; i < option_total(command); i++) {
        const csp_option *option = option_at(command, i);

        if (strlen(option->name) == bytes && memcmp(option->name, name, bytes) == 0) {
            return option;
        }
    }
    return NULL;
}

static const csp_option *find_by_letter(const csp_command *command, char letter)
{
    for (int i = 0; i < option_total(command); i++) {
        if (option_at(command, i)->letter == letter) {
            return option_at(command, i);
        }
    }
    return NULL;
}

static csp_status refuse_unknown(const csp_command *command, const char *word)
{
    csp_suggest suggest;
    char name[80];
    size_t bytes = strcspn(word + strspn(word, "-"), "=");

    bytes = bytes < sizeof(name) - 1 ? bytes : sizeof(name) - 1;
    memcpy(name, word + strspn(word, "-"), bytes);
    name[bytes] = '\0';
    csp_suggest_init(&suggest, name);
    for (int i = 0; i < option_total(command); i++) {
        csp_suggest_offer(&suggest, option_at(command, i)->name);
    }
    if (suggest.best != NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: %s: no such option (did you mean --%s?)",
                        command->name, word, suggest.best);
    }
    return CSP_FAIL(CSP_ERR_CONFIG, "%s: %s: no such option (see csplade %s --help)", command->name,
                    word, command->name);
}

/* Whether text is one of the words of "a|b|c". */
static bool is_choice(const char *choices, const char *text)
{
    const size_t bytes = strlen(text);

    for (const char *at = choices; *at != '\0'; at += strspn(at, "|")) {
        const size_t word = strcspn(at, "|");

        if (word == bytes && memcmp(at, text, bytes) == 0) {
            return true;
        }
        at += word;
    }
    return false;
}

static csp_status check_number(const char *command, const csp_option *option, const char *text)
{
    const bool is_whole = option->kind == CSP_OPTION_I64;
    int64_t whole = 0;
    double value = 0.0;
    const bool good = is_whole ? csp_parse_i64(text, &whole) : csp_parse_f64(text, &value);

    if (!good || whole == INT64_MAX || whole == INT64_MIN || !isfinite(value)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: --%s: \"%s\" is not a %s", command, option->name, text,
                        is_whole ? "whole number" : "number");
    }
    value = is_whole ? (double)whole : value;
    if ((option->min != 0.0 || option->max != 0.0) &&
        !(value >= option->min && value <= option->max)) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: --%s: %s is not in %.9g..%.9g", command, option->name,
                        text, option->min, option->max);
    }
    return CSP_OK;
}

static csp_status check_value(const char *command, const csp_option *option, const char *text)
{
    switch (option->kind) {
    case CSP_OPTION_I64:
    case CSP_OPTION_F64:
        return check_number(command, option, text);
    case CSP_OPTION_ENUM:
        if (!is_choice(option->value, text)) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: --%s: \"%s\" is not one of %s", command,
                            option->name, text, option->value);
        }
        return CSP_OK;
    case CSP_OPTION_FLAG:
    case CSP_OPTION_TEXT:
    case CSP_OPTION_LIST:
        break;
    }
    return CSP_OK;
}

/*
 * Takes the option that begins at words[at] with its value; *used counts the words taken.
 */
static csp_status take_option(csp_arguments *args, int count, char *const *words, int at, int *used)
{
    const csp_command *command = args->command;
    const char *word = words[at], *value = NULL;
    const csp_option *option;

    if (word[1] == '-') {
        const size_t bytes = strcspn(word + 2, "=");

        option = find_by_name(command, word + 2, bytes);
        value = word[2 + bytes] == '=' ? word + 3 + bytes : NULL;
    } else {
        option = word[2] == '\0' ? find_by_letter(command, word[1]) : NULL;
    }
    if (option == NULL) {
        return refuse_unknown(command, word);
    }
    *used = 1;
    if (option->kind == CSP_OPTION_FLAG) {
        if (value != NULL) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: --%s takes no value", command->name, option->name);
        }
    } else {
        if (value == NULL) {
            if (at + 1 >= count) {
                return CSP_FAIL(CSP_ERR_CONFIG, "%s: --%s needs a value (%s)", command->name,
                                option->name, option->value);
            }
            value = words[at + 1];
            *used = 2;
        }
        CSP_TRY(check_value(command->name, option, value));
    }
    for (int i = 0; i < args->given_count && option->kind != CSP_OPTION_LIST; i++) {
        if (args->given[i].option == option && option->kind != CSP_OPTION_FLAG) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: --%s is given twice", command->name, option->name);
        }
    }
    args->given[args->given_count++] = (given_option) { option, value };
    return CSP_OK;
}

static const given_option *last_given(const csp_arguments *args, const csp_option *option)
{
    for (int i = args->given_count - 1; i >= 0; i--) {
        if (args->given[i].option == option) {
            return &args->given[i];
        }
    }
    return NULL;
}

static csp_status check_complete(const csp_arguments *args)
{
    const csp_command *command = args->command;
    const char *text = command->positional != NULL ? command->positional : "";
    int needed = 0, accepted = 0;

    for (int i = 0; i < command->option_count; i++) {
        if (command->options[i].required && last_given(args, &command->options[i]) == NULL) {
            return CSP_FAIL(CSP_ERR_CONFIG, "%s: --%s %s is required", command->name,
                            command->options[i].name, command->options[i].value);
        }
    }
    for (const char *at = text + strspn(text, " "); *at != '\0'; at += strspn(at, " ")) {
        const size_t bytes = strcspn(at, " ");
        const bool repeats = memmem(at, bytes, "...", 3) != NULL;

        if (*at != '[') {
            if (needed >= args->positional_count) {
                return CSP_FAIL(CSP_ERR_CONFIG, "%s: %.*s is missing (usage: csplade %s %s)",
                                command->name, (int)bytes, at, command->name, text);
            }
            needed++;
        }
        accepted = repeats ? args->positional_count : accepted + 1;
        at += bytes;
    }
    if (args->positional_count > accepted) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: %s: one argument too many (usage: csplade %s%s%s)",
                        command->name, args->positional[accepted], command->name,
                        text[0] != '\0' ? " " : " [options]", text);
    }
    return CSP_OK;
}

csp_status csp_args_parse(const csp_command *command, int count, char *const *words,
                          csp_arguments **out)
{
    csp_arguments *args = NULL;
    bool options_end = false;
    csp_status status;

    CSP_TRY(csp_alloc_zero("command line", 1, sizeof(*args), &args));
    args->command = command;
    CSP_TRY_GOTO(csp_alloc_zero("command line", count, sizeof(*args->given), &args->given));
    CSP_TRY_GOTO(
        csp_alloc_zero("command line", count, sizeof(*args->positional), &args->positional));
    for (int i = 0; i < count;) {
        int used = 1;

        if (!options_end && strcmp(words[i], "--") == 0) {
            options_end = true;
        } else if (!options_end && words[i][0] == '-' && words[i][1] != '\0') {
            CSP_TRY_GOTO(take_option(args, count, words, i, &used));
        } else {
            args->positional[args->positional_count++] = words[i];
        }
        i += used;
    }
    if (!csp_args_flag(args, "help")) {
        CSP_TRY_GOTO(check_complete(args));
    }
    *out = args;
    return CSP_OK;

fail:
    csp_args_free(args);
    return status;
}

void csp_args_free(csp_arguments *args)
{
    if (args == NULL) {
        return;
    }
    free(args->given);
    free((void *)args->positional);
    free(args);
}

static const csp_option *row_of(const csp_arguments *args, const char *name)
{
    const csp_option *option = find_by_name(args->command, name, strlen(name));

    CSP_ASSERT(option != NULL);
    return option;
}

bool csp_args_given(const csp_arguments *args, const char *name)
{
    return last_given(args, row_of(args, name)) != NULL;
}

bool csp_args_flag(const csp_arguments *args, const char *name)
{
    CSP_ASSERT(row_of(args, name)->kind == CSP_OPTION_FLAG);
    return csp_args_given(args, name);
}

static const char *text_of(const csp_arguments *args, const csp_option *option)
{
    const given_option *given = last_given(args, option);

    return given != NULL ? given->text : option->standard;
}

const char *csp_args_text(const csp_arguments *args, const char *name)
{
    const csp_option *option = row_of(args, name);

    CSP_ASSERT(option->kind == CSP_OPTION_TEXT || option->kind == CSP_OPTION_ENUM);
    return text_of(args, option);
}

int64_t csp_args_i64(const csp_arguments *args, const char *name)
{
    const csp_option *option = row_of(args, name);

    CSP_ASSERT(option->kind == CSP_OPTION_I64 && text_of(args, option) != NULL);
    return strtoll(text_of(args, option), NULL, 10);
}

double csp_args_f64(const csp_arguments *args, const char *name)
{
    const csp_option *option = row_of(args, name);

    CSP_ASSERT(option->kind == CSP_OPTION_F64 && text_of(args, option) != NULL);
    return strtod(text_of(args, option), NULL);
}

int csp_args_list_count(const csp_arguments *args, const char *name)
{
    const csp_option *option = row_of(args, name);
    int count = 0;

    CSP_ASSERT(option->kind == CSP_OPTION_LIST);
    for (int i = 0; i < args->given_count; i++) {
        count += args->given[i].option == option;
    }
    return count;
}

const char *csp_args_list_at(const csp_arguments *args, const char *name, int index)
{
    const csp_option *option = row_of(args, name);

    CSP_ASSERT(option->kind == CSP_OPTION_LIST);
    for (int i = 0; i < args->given_count; i++) {
        if (args->given[i].option == option && index-- == 0) {
            return args->given[i].text;
        }
    }
    return NULL;
}

int csp_args_positional_count(const csp_arguments *args)
{
    return args->positional_count;
}

const char *csp_args_positional(const csp_arguments *args, int index)
{
    return index >= 0 && index < args->positional_count ? args->positional[index] : NULL;
}
