/* checkpoint_list.c - names of checkpoints, and those that a folder has. */
#include "train/checkpoint_list.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"

enum { NAME_BYTES = CSP_CHECKPOINT_NAME_BYTES };

csp_status csp_checkpoint_dir(const char *run_dir, char **out)
{
    return csp_file_join(run_dir, "checkpoints", out);
}

void csp_checkpoint_stem(const char *phase, int64_t step, char stem[NAME_BYTES])
{
    snprintf(stem, NAME_BYTES, "%s-%08lld", phase, (long long)step);
}

void csp_checkpoint_name(const char *phase, int64_t step, char name[NAME_BYTES])
{
    csp_checkpoint_stem(phase, step, name);
    snprintf(name + strlen(name), NAME_BYTES - strlen(name), ".h5");
}

/* "contrastive-00000200.h5" -> its step, or -1 for other names. */
static int64_t step_of(const char *name)
{
    const char *dash = strrchr(name, '-');
    char *end;
    long long step;

    if (dash == NULL || strlen(dash) != strlen("-00000000.h5")) {
        return -1;
    }
    step = strtoll(dash + 1, &end, 10);
    return strcmp(end, ".h5") == 0 ? (int64_t)step : -1;
}

/* Newest first. */
static int by_age(const void *a, const void *b)
{
    const csp_checkpoint_entry *x = a, *y = b;

    if (x->adapt != y->adapt) {
        return x->adapt ? 1 : -1;
    }
    return (x->step < y->step) - (x->step > y->step);
}

csp_status csp_checkpoint_list(const char *dir, csp_checkpoint_entry **out, int64_t *count)
{
    DIR *folder = opendir(dir);
    csp_checkpoint_entry *list = NULL;
    int64_t n = 0;
    csp_status status = CSP_OK;

    *out = NULL;
    *count = 0;
    if (folder == NULL) {
        return errno == ENOENT ? CSP_OK : CSP_FAIL(CSP_ERR_IO, "%s: %s", dir, strerror(errno));
    }
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        const int64_t step = step_of(entry->d_name);

        if (step >= 0 && strlen(entry->d_name) < NAME_BYTES) {
            CSP_TRY_GOTO(csp_realloc("checkpoints", n + 1, sizeof(*list), &list));
            snprintf(list[n].name, NAME_BYTES, "%s", entry->d_name);
            list[n].adapt = strncmp(entry->d_name, "adapt-", 6) == 0;
            list[n++].step = step;
        }
    }
    if (n > 0) {
        qsort(list, (size_t)n, sizeof(*list), by_age);
    }
    *out = list;
    *count = n;
    list = NULL;

fail:
    closedir(folder);
    free(list);
    return status;
}

csp_status csp_checkpoint_read_latest(const char *dir, char **name)
{
    char *path = NULL;
    int64_t bytes;
    csp_status status;

    *name = NULL;
    CSP_TRY(csp_file_join(dir, "LATEST", &path));
    status = csp_file_exists(path) ? csp_file_read(path, NAME_BYTES, name, &bytes) : CSP_OK;
    if (status == CSP_ERR_FORMAT || (*name != NULL && step_of(*name) < 0)) {
        csp_log(CSP_LOG_WARN, "train", "%s does not name a checkpoint: the newest is taken", path);
        free(*name);
        *name = NULL;
        status = CSP_OK;
    }
    free(path);
    return status;
}
