/*
 * args.h - the command line, driven by tables: a subcommand is one csp_command, an option is one
 * csp_option row. Parsing and --help read the same rows, so they cannot disagree.
 *
 * Accepted: --name VALUE, --name=VALUE, -n VALUE, "--" ends the options; options and positional
 * arguments in any order.
 */
#pragma once

#include <stdio.h>

#include "core/status.h"

typedef enum csp_option_kind {
    CSP_OPTION_FLAG, /* present or not                                   */
    CSP_OPTION_TEXT, /* any text: a file, a name                         */
    CSP_OPTION_I64,  /* a whole number in min..max                       */
    CSP_OPTION_F64,  /* a number in min..max                             */
    CSP_OPTION_ENUM, /* one of the words of value, "text|json"           */
    CSP_OPTION_LIST  /* any text, may be given several times             */
} csp_option_kind;

typedef struct csp_option {
    const char *name; /* "top-k", without dashes                                  */
    char letter;      /* 'k' for -k, 0 for none                                   */
    csp_option_kind kind;
    const char *value;    /* what --help calls its value ("FILE"); NULL for a flag;
                             the permitted words of CSP_OPTION_ENUM                   */
    const char *standard; /* text of the value when not given; NULL for none          */
    bool required;
    double min, max;  /* of numbers; both 0: no limits                            */
    const char *help; /* one sentence, lower case, no full stop                   */
} csp_option;

typedef struct csp_arguments csp_arguments;

/* One subcommand. Each cmd_<name>.c defines one, and main.c lists them all. */
typedef struct csp_command {
    const char *name;
    const char *summary; /* one line of `csplade --help`            */
    const csp_option *options;
    int option_count;
    /*
     * The positional arguments as --help shows them, words separated by blanks: "NAME" is required,
     * "[NAME]" optional, "NAME..." one or more, "[NAME...]" any number. The parser counts by this.
     */
    const char *positional;
    const char *details; /* paragraphs and examples below the options; NULL for none */
    csp_status (*run)(const csp_arguments *args);
} csp_command;

#define CSP_COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

/* Options that every subcommand has: --help, --quiet, --verbose, --no-progress. */
extern const csp_option csp_common_options[];
extern const int csp_common_option_count;

/*
 * Parses what follows the subcommand's name.
 *
 *   words   in    argv after the name; must live as long as *out
 *   out     out   all options checked by kind and range, standards filled in
 *
 * With --help among the words nothing is required.
 * Owner:  the caller frees with csp_args_free.
 * Errors: CSP_ERR_CONFIG (unknown option with the nearest name, missing or bad value, missing or
 *         surplus argument), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_args_parse(const csp_command *command, int count, char *const *words,
                                      csp_arguments **out);
void csp_args_free(csp_arguments *args);

/*
 * Values by option name. A name that the command has no row for, or of another kind, is a mistake
 * of ours and asserts.
 */
bool csp_args_flag(const csp_arguments *args, const char *name);
bool csp_args_given(const csp_arguments *args, const char *name);
/* The text, the standard, or NULL. For CSP_OPTION_TEXT and CSP_OPTION_ENUM. */
const char *csp_args_text(const csp_arguments *args, const char *name);
/* The number or the standard; asserts that there is one of them. */
int64_t csp_args_i64(const csp_arguments *args, const char *name);
double csp_args_f64(const csp_arguments *args, const char *name);
/* How often a CSP_OPTION_LIST was given, and its values in order. */
int csp_args_list_count(const csp_arguments *args, const char *name);
const char *csp_args_list_at(const csp_arguments *args, const char *name, int index);

/* Positional arguments in order; NULL at and beyond the count. */
int csp_args_positional_count(const csp_arguments *args);
const char *csp_args_positional(const csp_arguments *args, int index);

/* Everything about one command, from its rows. */
void csp_args_print_help(const csp_command *command, FILE *stream);
