/*
 * scratch.h - a folder of its own for each test program of io/, files written and read whole there,
 * and the walk over every error path that the fault driver makes possible.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/status.h"

static char scratch_dir[256];

static inline int scratch_make(void **state)
{
    /* A program that was carried to another machine has left its build folder behind. */
    const char *at = access(CSPLADE_BINARY_DIR, W_OK) == 0 ? CSPLADE_BINARY_DIR : getenv("TMPDIR");

    (void)state;
    snprintf(scratch_dir, sizeof(scratch_dir), "%s/scratch-XXXXXX", at != NULL ? at : "/tmp");
    return mkdtemp(scratch_dir) == NULL ? -1 : 0;
}

static inline int scratch_remove_one(const char *path, const struct stat *info, int kind,
                                     struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static inline int scratch_remove(void **state)
{
    (void)state;
    return nftw(scratch_dir, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* "<scratch>/name"; one of eight buffers in turn. */
static inline const char *scratch_path(const char *name)
{
    static char paths[8][512];
    static int turn;
    char *path = paths[turn++ % 8];

    snprintf(path, sizeof(paths[0]), "%s/%s", scratch_dir, name);
    return path;
}

/* A file of real data outside the repository; skips the test where it is absent. */
static inline const char *shared_path(const char *name)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/../shared/data/%s", CSPLADE_SOURCE_DIR, name);
    if (access(path, R_OK) != 0) {
        skip();
    }
    return path;
}

/* Plain stdio on purpose: tests must not trust the code they test. */
static inline void scratch_write(const char *path, const void *bytes, size_t count)
{
    FILE *stream = fopen(path, "wb");

    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, count, stream), count);
    assert_int_equal(fclose(stream), 0);
}

static inline void scratch_text(const char *path, const char *text)
{
    scratch_write(path, text, strlen(text));
}

/* NUL-terminated; the caller frees it. */
static inline char *scratch_read(const char *path, size_t *count)
{
    FILE *stream = fopen(path, "rb");
    struct stat info;
    char *bytes;

    assert_non_null(stream);
    assert_int_equal(fstat(fileno(stream), &info), 0);
    bytes = malloc((size_t)info.st_size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)info.st_size, stream), (size_t)info.st_size);
    bytes[info.st_size] = '\0';
    fclose(stream);
    *count = (size_t)info.st_size;
    return bytes;
}

/* Changes one byte where it lies: quicker than writing the file again for every byte. */
static inline void scratch_poke(const char *path, size_t at, char byte)
{
    const int fd = open(path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* How many entries of the folder have part in their name. */
static inline int scratch_count(const char *folder, const char *part)
{
    DIR *dir = opendir(folder);
    int count = 0;

    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        count += strstr(entry->d_name, part) != NULL;
    }
    closedir(dir);
    return count;
}

/* Success, or the error's text on the terminal. */
static inline void assert_ok(csp_status status)
{
    if (status != CSP_OK) {
        print_error("error text \"%s\"\n", csp_error_text());
    }
    assert_int_equal(status, CSP_OK);
}

/* The last failure's text has part in it; prints the text where it has not. */
static inline void assert_error_has(const char *part)
{
    if (strstr(csp_error_text(), part) == NULL) {
        print_error("error text \"%s\" lacks \"%s\"\n", csp_error_text(), part);
    }
    assert_non_null(strstr(csp_error_text(), part));
}

/*
 * Calls run with the first, second, ... question to the fault driver answered true, until it asks
 * no more. After each failure there must be a text, and check must hold. Returns the number of
 * failures seen. Leaks are the address sanitizer's business.
 */
static inline long walk_faults(csp_status (*run)(void *context), void (*check)(void *context),
                               void *context)
{
    for (long n = 1;; n++) {
        csp_status status;
        long asked;

        (void)csp_error_set(CSP_ERR_ARGUMENT, __FILE__, __LINE__, "%s", "");
        csp_fault_arm(n);
        status = run(context);
        asked = csp_fault_asked();
        csp_fault_arm(0);
        if (asked < n) {
            assert_int_equal(status, CSP_OK);
            return n - 1;
        }
        if (status == CSP_OK) {
            print_error("fault %ld of %ld was swallowed\n", n, asked);
        }
        assert_int_not_equal(status, CSP_OK);
        assert_true(csp_error_text()[0] != '\0');
        if (check != NULL) {
            check(context);
        }
    }
}
