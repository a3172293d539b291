/* config_args.c - overrides in the order they were given. */
#include "cli/config_args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

/* "run.resume=none". Owner: the caller frees *out. */
static csp_status join(const char *setting, const char *value, char **out)
{
    const size_t bytes = strlen(setting) + strlen(value) + 2;

    CSP_TRY(csp_alloc("config overrides", (int64_t)bytes, 1, out));
    (void)snprintf(*out, bytes, "%s=%s", setting, value);
    return CSP_OK;
}

csp_status csp_config_from_args(const csp_arguments *args, int file,
                                const csp_config_option *options, int count, csp_config **out)
{
    const int sets = csp_args_list_count(args, "set");
    const int words = csp_args_positional_count(args) - file - 1;
    const char **overrides = NULL;
    char **joined = NULL;
    int used = 0;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc_zero("config overrides", sets + (words > 0 ? words : 0) + count,
                                sizeof(*overrides), &overrides));
    CSP_TRY_GOTO(csp_alloc_zero("config overrides", count, sizeof(*joined), &joined));
    for (int i = 0; i < sets; i++) {
        overrides[used++] = csp_args_list_at(args, "set", i);
    }
    for (int i = 0; i < words; i++) {
        overrides[used++] = csp_args_positional(args, file + 1 + i);
    }
    for (int i = 0; i < count; i++) {
        if (csp_args_given(args, options[i].option)) {
            CSP_TRY_GOTO(
                join(options[i].setting, csp_args_text(args, options[i].option), &joined[i]));
            overrides[used++] = joined[i];
        }
    }
    status = csp_config_load(csp_args_positional(args, file), overrides, used, out);

fail:
    for (int i = 0; i < count && joined != NULL; i++) {
        free(joined[i]);
    }
    free(joined);
    free((void *)overrides);
    return status;
}
