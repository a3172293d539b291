/* text_files.c - a file, a BEIR folder's file, or its shards. */
#include "data/text_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/file.h"

enum { MOST_SHARDS = 1000000 };

/* The shards of a folder while they are found. */
typedef struct shards {
    const char *folder, *stem; /* "corpus" */
    char **files;              /* (count) by number, NULL: not found yet */
    int64_t count;             /* as the names say; 0: none is there     */
} shards;

void csp_text_files_free(char **files, int64_t count)
{
    for (int64_t i = 0; files != NULL && i < count; i++) {
        free(files[i]);
    }
    free(files);
}

/* Digits from *at on, up to MOST_SHARDS; -1 where there are none or they say more. */
static int64_t take_number(const char **at)
{
    int64_t value = 0;
    const char *begin = *at;

    while (**at >= '0' && **at <= '9' && value <= MOST_SHARDS) {
        value = 10 * value + (*(*at)++ - '0');
    }
    return *at > begin && value <= MOST_SHARDS ? value : -1;
}

/* "corpus-00001-of-00003.jsonl" -> 1, 3. False for any other name. */
static bool is_shard(const char *name, const char *stem, int64_t *number, int64_t *of)
{
    const size_t length = strlen(stem);
    const char *at = name + length + 1;

    if (strncmp(name, stem, length) != 0 || name[length] != '-') {
        return false;
    }
    *number = take_number(&at);
    if (*number < 0 || strncmp(at, "-of-", 4) != 0) {
        return false;
    }
    at += 4;
    *of = take_number(&at);
    return *of > 0 && (strcmp(at, ".jsonl") == 0 || strcmp(at, ".jsonl.gz") == 0);
}

static csp_status add_shard(shards *s, const char *name, int64_t number, int64_t of)
{
    if (s->count == 0) {
        CSP_TRY(csp_alloc_zero(s->folder, of, sizeof(*s->files), &s->files));
        s->count = of;
    }
    if (of != s->count || number >= of) {
        return CSP_FAIL(CSP_ERR_DATA, "%s: %s is none of the %lld shards that others belong to",
                        s->folder, name, (long long)s->count);
    }
    if (s->files[number] != NULL) {
        return CSP_FAIL(CSP_ERR_DATA, "%s: %s is there twice (%s)", s->folder, name,
                        s->files[number]);
    }
    return csp_file_join(s->folder, name, &s->files[number]);
}

static csp_status find_shards(shards *s)
{
    DIR *folder = opendir(s->folder);
    csp_status status = CSP_OK;

    if (folder == NULL) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s", s->folder, strerror(errno));
    }
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        int64_t number, of;

        if (is_shard(entry->d_name, s->stem, &number, &of)) {
            CSP_TRY_GOTO(add_shard(s, entry->d_name, number, of));
        }
    }
    for (int64_t i = 0; i < s->count; i++) {
        if (s->files[i] == NULL) {
            status = CSP_FAIL(CSP_ERR_IO, "%s: of %lld shards, %s-%05lld-of-%05lld is not there",
                              s->folder, (long long)s->count, s->stem, (long long)i,
                              (long long)s->count);
            goto fail;
        }
    }

fail:
    closedir(folder);
    return status;
}

/* A list of one. */
static csp_status only(char *file, char ***out, int64_t *count)
{
    csp_status status = csp_alloc("texts", 1, sizeof(**out), out);

    if (status != CSP_OK) {
        free(file);
        return status;
    }
    (*out)[0] = file;
    *count = 1;
    return CSP_OK;
}

csp_status csp_text_files(const char *path, csp_side side, char ***out, int64_t *count)
{
    static const char *const endings[] = { ".jsonl", ".jsonl.gz" };
    shards s = { .folder = path, .stem = side == CSP_SIDE_QUERY ? "queries" : "corpus" };
    csp_status status;
    char *file = NULL;

    if (!csp_file_is_dir(path)) {
        CSP_TRY(csp_strdup("texts", path, &file));
        return only(file, out, count);
    }
    for (int i = 0; i < 2; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "%s%s", s.stem, endings[i]);
        CSP_TRY(csp_file_join(path, name, &file));
        if (csp_file_exists(file)) {
            return only(file, out, count);
        }
        free(file);
    }
    status = find_shards(&s);
    if (status == CSP_OK && s.count == 0) {
        status = CSP_FAIL(CSP_ERR_IO,
                          "%s: this folder has no %s.jsonl (nor %s.jsonl.gz, nor shards "
                          "%s-00000-of-N.jsonl)",
                          path, s.stem, s.stem, s.stem);
    }
    if (status != CSP_OK) {
        csp_text_files_free(s.files, s.count);
        return status;
    }
    *out = s.files;
    *count = s.count;
    return CSP_OK;
}
