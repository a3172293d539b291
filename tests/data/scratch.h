/*
 * scratch.h - a folder for the files a test writes, and a tokenizer that anyone can follow: every
 * character is a token. Included by the tests of this folder only.
 */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

#include "core/fault.h"
#include "data/tokenizer.h"

#define SHARED CSPLADE_SOURCE_DIR "/../shared/data/"

static char scratch_dir[] = "/tmp/csplade-data-XXXXXX";

static inline int scratch_make(void **state)
{
    return mkdtemp(scratch_dir) != NULL ? 0 : -1;
}

static inline int scratch_remove(void **state)
{
    char command[200];

    (void)snprintf(command, sizeof(command), "rm -rf %s", scratch_dir);
    return system(command) == 0 ? 0 : -1;
}

/* Path of a scratch file; the last 64 asked for stay valid. */
static inline const char *at(const char *name)
{
    static char paths[64][300];
    static int next;
    char *path = paths[next++ & 63];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", scratch_dir, name);
    return path;
}

static inline void make_dir(const char *name)
{
    (void)mkdir(at(name), 0755);
    assert_int_equal(access(at(name), X_OK), 0);
}

static inline void put_bytes(const char *name, const char *bytes, size_t count)
{
    FILE *file = fopen(at(name), "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static inline void put_text(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

static inline void put_gzip(const char *name, const char *text)
{
    gzFile file = gzopen(at(name), "wb");

    assert_non_null(file);
    assert_int_equal(gzwrite(file, text, (unsigned)strlen(text)), (int)strlen(text));
    assert_int_equal(gzclose(file), Z_OK);
}

static inline bool shared_is_here(const char *name)
{
    char path[400];

    (void)snprintf(path, sizeof(path), SHARED "%s", name);
    return access(path, R_OK) == 0;
}

/* The last failure says all of what. */
static inline void assert_says(const char *what)
{
    if (strstr(csp_error_text(), what) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", csp_error_text(), what);
    }
}

/* a..z are 0..25, space 26, ':' 27, '.' 28, digits 29..38; <s> 39, </s> 40. */
enum { TOKEN_SPACE = 26, TOKEN_COLON = 27, TOKEN_BOS = 39, TOKEN_EOS = 40 };

static inline csp_tokenizer *letters(void)
{
    static const char symbols[] = "abcdefghijklmnopqrstuvwxyz :.0123456789";
    char json[2000];
    size_t used = 0;
    csp_tokenizer *tokenizer = NULL;

    used += (size_t)snprintf(json, sizeof(json),
                             "{\"version\":\"1.0\",\"truncation\":null,"
                             "\"padding\":null,\"added_tokens\":[],"
                             "\"normalizer\":null,\"pre_tokenizer\":null,"
                             "\"post_processor\":null,\"decoder\":null,"
                             "\"model\":{\"type\":\"BPE\",\"merges\":[],"
                             "\"vocab\":{");
    for (int i = 0; symbols[i] != '\0'; i++) {
        used += (size_t)snprintf(json + used, sizeof(json) - used, "\"%c\":%d,", symbols[i], i);
    }
    used += (size_t)snprintf(json + used, sizeof(json) - used, "\"<s>\":39,\"</s>\":40}}}");
    assert_int_equal(csp_tokenizer_from_text(json, (int64_t)used, "letters", &tokenizer), CSP_OK);
    return tokenizer;
}
