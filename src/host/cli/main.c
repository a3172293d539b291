/*
 * main.c - the program: one table of subcommands, --help, --version, exit codes.
 *
 * Results go to stdout, everything else to stderr. The environment is read here and nowhere else
 * (TERM and NO_COLOR, which change how stderr looks, CSPLADE_CUDA_PLUGIN, the CUDA backend's file).
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/cuda_plugin.h"
#include "config/suggest.h"
#include "core/exit_code.h"
#include "core/log.h"
#include "cpu/backend.h"

/* One line a subcommand, in the order of a first session. */
static const csp_command *const commands[] = {
    // clang-format off
    &csp_cmd_train,
    &csp_cmd_encode,
    &csp_cmd_merge,
    &csp_cmd_search,
    &csp_cmd_eval,
    &csp_cmd_bm25,
    &csp_cmd_fuse,
    &csp_cmd_export,
    &csp_cmd_tokenize,
    &csp_cmd_init,
    &csp_cmd_compare,
    &csp_cmd_report,
    &csp_cmd_info,
    &csp_cmd_estimate,
    &csp_cmd_config,
    &csp_cmd_doctor,
    &csp_cmd_bench,
    // clang-format on
};

static const csp_command *find_command(const char *name)
{
    for (int i = 0; i < CSP_COUNT(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

/* "csplade: text" on stderr, in red where stderr is a terminal that wants colours. */
static void print_error(const char *text)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    const bool colour = isatty(STDERR_FILENO) && term != NULL && strcmp(term, "dumb") != 0 &&
                        (no_color == NULL || no_color[0] == '\0');

    csp_log_progress(NULL);
    fprintf(stderr, colour ? "\033[31mcsplade:\033[0m %s\n" : "csplade: %s\n", text);
}

static void print_program_help(FILE *stream)
{
    fprintf(stream, "csplade: trains sparse retrievers from causal language models, and encodes,\n"
                    "searches and evaluates with them\n\n"
                    "usage: csplade COMMAND [options]\n\ncommands:\n");
    for (int i = 0; i < CSP_COUNT(commands); i++) {
        fprintf(stream, "  %-10s  %s\n", commands[i]->name, commands[i]->summary);
    }
    fprintf(stream, "  %-10s  %s\n\n", "help", "the text of `csplade COMMAND --help`");
    fprintf(stream, "csplade COMMAND --help says everything about a command; csplade --version "
                    "says which\nprogram this is. Results go to stdout, progress and messages to "
                    "stderr.\n\nexit codes:\n");
    csp_exit_code_print(stream);
}

static csp_status refuse_command(const char *name)
{
    csp_suggest suggest;

    csp_suggest_init(&suggest, name);
    for (int i = 0; i < CSP_COUNT(commands); i++) {
        csp_suggest_offer(&suggest, commands[i]->name);
    }
    if (suggest.best != NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG, "%s: no such command (did you mean %s?)", name,
                        suggest.best);
    }
    return CSP_FAIL(CSP_ERR_CONFIG, "%s: no such command (see csplade --help)", name);
}

static csp_status set_up_log(const csp_arguments *args)
{
    const char *term = getenv("TERM");

    if (csp_args_flag(args, "quiet") && csp_args_flag(args, "verbose")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "--quiet and --verbose exclude each other");
    }
    if (csp_args_flag(args, "quiet")) {
        csp_log_set_level(CSP_LOG_WARN);
    } else if (csp_args_flag(args, "verbose")) {
        csp_log_set_level(CSP_LOG_DEBUG);
    }
    csp_log_set_live(isatty(STDERR_FILENO) && term != NULL && strcmp(term, "dumb") != 0 &&
                     !csp_args_flag(args, "no-progress") && !csp_args_flag(args, "quiet"));
    return CSP_OK;
}

static csp_status run_command(const csp_command *command, int count, char *const *words)
{
    csp_arguments *args = NULL;
    csp_status status;

    CSP_TRY(csp_args_parse(command, count, words, &args));
    if (csp_args_flag(args, "help")) {
        csp_args_print_help(command, stdout);
        status = CSP_OK;
    } else {
        status = set_up_log(args);
        if (status == CSP_OK) {
            status = command->run(args);
        }
    }
    csp_args_free(args);
    return status;
}

static csp_status run_help(int count, char *const *words)
{
    const csp_command *command;

    if (count == 0 || strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0 ||
        strcmp(words[0], "help") == 0) {
        print_program_help(stdout);
        return CSP_OK;
    }
    command = find_command(words[0]);
    if (command == NULL) {
        return refuse_command(words[0]);
    }
    csp_args_print_help(command, stdout);
    return CSP_OK;
}

static csp_status dispatch(int count, char *const *words)
{
    const csp_command *command;

    if (count == 0) {
        print_program_help(stderr);
        return CSP_FAIL(CSP_ERR_CONFIG, "a command is missing");
    }
    if (strcmp(words[0], "--version") == 0 || strcmp(words[0], "-V") == 0) {
        printf("csplade %s\n", CSPLADE_DESCRIBE);
        return CSP_OK;
    }
    if (strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0) {
        return run_help(0, NULL);
    }
    if (strcmp(words[0], "help") == 0) {
        return run_help(count - 1, words + 1);
    }
    command = find_command(words[0]);
    if (command == NULL) {
        return refuse_command(words[0]);
    }
    return run_command(command, count - 1, words + 1);
}

int main(int argc, char **argv)
{
    csp_status status;

    /* A file beyond the size limit is then an error of write(), which is reported, not a death. */
    signal(SIGXFSZ, SIG_IGN);
    csp_backend_register("cpu", csp_cpu_open);
    csp_cuda_plugin_register(getenv("CSPLADE_CUDA_PLUGIN"));
    status = dispatch(argc > 0 ? argc - 1 : 0, argv + 1);

    /* A result that did not reach its file must not look like success. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (status == CSP_OK) {
            status = CSP_FAIL(CSP_ERR_IO, "standard output: %s", strerror(errno));
        }
    }
    if (status != CSP_OK) {
        if (csp_error_text()[0] != '\0') { /* another rank has said it */
            print_error(csp_error_text());
        }
        csp_log(CSP_LOG_DEBUG, "cli  ", "raised at %s, status %s", csp_error_place(),
                csp_status_name(status));
    }
    return csp_exit_code(status);
}
