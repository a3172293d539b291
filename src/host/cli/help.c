/* help.c - the --help text of a subcommand, made from the rows that the parser reads. */
#include <string.h>

#include "cli/args.h"

enum { HELP_COLUMN = 30, HELP_WIDTH = 100 };

/* Writes text in lines of at most HELP_WIDTH columns; it begins at column, later lines indented. */
static void print_wrapped(FILE *stream, const char *text, size_t column, size_t indent)
{
    for (bool first = true; *text != '\0'; first = false) {
        const size_t word = strcspn(text, " ");

        if (!first && column + 1 + word > HELP_WIDTH) {
            fprintf(stream, "\n%*s", (int)indent, "");
            column = indent;
        } else if (!first) {
            fputc(' ', stream);
            column++;
        }
        fprintf(stream, "%.*s", (int)word, text);
        column += word;
        text += word + strspn(text + word, " ");
    }
    fputc('\n', stream);
}

static void print_option(const csp_option *option, FILE *stream)
{
    char left[128], right[512];
    size_t used = 0;
    int bytes = 0;

    if (option->letter != 0) {
        bytes = snprintf(left, sizeof(left), "  -%c, --%s", option->letter, option->name);
    } else {
        bytes = snprintf(left, sizeof(left), "      --%s", option->name);
    }
    used = (size_t)bytes < sizeof(left) ? (size_t)bytes : sizeof(left) - 1;
    if (option->value != NULL) {
        snprintf(left + used, sizeof(left) - used, " %s", option->value);
    }
    bytes = snprintf(right, sizeof(right), "%s", option->help);
    used = (size_t)bytes < sizeof(right) ? (size_t)bytes : sizeof(right) - 1;
    if (option->required) {
        snprintf(right + used, sizeof(right) - used, " (required)");
    } else if (option->kind == CSP_OPTION_LIST) {
        snprintf(right + used, sizeof(right) - used, " (may be repeated)");
    } else if (option->standard != NULL) {
        snprintf(right + used, sizeof(right) - used, " [%s]", option->standard);
    }
    if (strlen(left) + 2 > HELP_COLUMN) {
        fprintf(stream, "%s\n%*s", left, HELP_COLUMN, "");
    } else {
        fprintf(stream, "%-*s", HELP_COLUMN, left);
    }
    print_wrapped(stream, right, HELP_COLUMN, HELP_COLUMN);
}

void csp_args_print_help(const csp_command *command, FILE *stream)
{
    fprintf(stream, "csplade %s: %s\n\nusage: csplade %s [options]%s%s\n\noptions:\n",
            command->name, command->summary, command->name,
            command->positional != NULL && command->positional[0] != '\0' ? " " : "",
            command->positional != NULL ? command->positional : "");
    for (int i = 0; i < command->option_count; i++) {
        print_option(&command->options[i], stream);
    }
    for (int i = 0; i < csp_common_option_count; i++) {
        print_option(&csp_common_options[i], stream);
    }
    if (command->details != NULL) {
        fprintf(stream, "\n%s\n", command->details);
    }
}
