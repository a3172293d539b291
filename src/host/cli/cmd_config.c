/* cmd_config.c - csplade config: checks a config, or prints it with the origin of every value. */
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/config_args.h"

static const csp_option options[] = {
    { .name = "set",
      .kind = CSP_OPTION_LIST,
      .value = "KEY=VALUE",
      .help = "override a setting after the file is read, such as contrastive.lambda_q=1e-4" },
    { .name = "explain",
      .kind = CSP_OPTION_FLAG,
      .help = "print: also what every setting means and its limits (always so without a FILE)" },
};

static csp_status check(const csp_config *config, const char *path)
{
    uint64_t hash;

    CSP_TRY(csp_config_validate(config));
    CSP_TRY(csp_config_hash(config, &hash));
    printf("%s: fine, hash %016llx\n", path, (unsigned long long)hash);
    return CSP_OK;
}

static csp_status print(const csp_config *config, bool explain)
{
    char *text = NULL;

    CSP_TRY(csp_config_dump(config, explain, &text));
    fputs(text, stdout);
    free(text);
    return CSP_OK;
}

static csp_status run(const csp_arguments *args)
{
    const char *action = csp_args_positional(args, 0), *path = csp_args_positional(args, 1);
    csp_config *config = NULL;
    csp_status status;

    if (strcmp(action, "check") != 0 && strcmp(action, "print") != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "config: \"%s\" is neither check nor print", action);
    }
    if (strcmp(action, "check") == 0 && path == NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG, "config check: a FILE is missing");
    }
    CSP_TRY(csp_config_from_args(args, 1, NULL, 0, &config));
    if (action[0] == 'c') {
        status = check(config, path);
    } else {
        status = print(config, path == NULL || csp_args_flag(args, "explain"));
    }
    csp_config_free(config);
    return status;
}

const csp_command csp_cmd_config = {
    .name = "config",
    .summary = "check a config, or print it with the origin of every value",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "check|print [FILE] [KEY=VALUE...]",
    .details =
        "csplade config print            every setting with its meaning and standard value\n"
        "csplade config print FILE       the resolved config: what `csplade train FILE` uses\n"
        "csplade config check FILE       also whether its settings fit together and name all that "
        "a\n"
        "                                training needs; `csplade train FILE --dry-run` opens it, "
        "too\n\n"
        "A file may begin with \"extends: other.yaml\" (relative to its own folder): that file "
        "is read\nfirst, then this one, then --set and KEY=VALUE.",
    .run = run,
};
