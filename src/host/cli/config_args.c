/* config_args.c - overrides in the order they were given. */
#include "cli/config_args.h"

#include <stdlib.h>

#include "core/memory.h"

csp_status csp_config_from_args(const csp_arguments *args, int file, const char *extra,
                                csp_config **out)
{
    const int sets = csp_args_list_count(args, "set");
    const int words = csp_args_positional_count(args) - file - 1;
    const char **overrides = NULL;
    int count = 0;
    csp_status status;

    CSP_TRY(csp_alloc("config overrides", sets + (words > 0 ? words : 0) + 1, sizeof(*overrides),
                      &overrides));
    for (int i = 0; i < sets; i++) {
        overrides[count++] = csp_args_list_at(args, "set", i);
    }
    for (int i = 0; i < words; i++) {
        overrides[count++] = csp_args_positional(args, file + 1 + i);
    }
    if (extra != NULL) {
        overrides[count++] = extra;
    }
    status = csp_config_load(csp_args_positional(args, file), overrides, count, out);
    free((void *)overrides);
    return status;
}
