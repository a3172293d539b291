/* test_file.c - atomic files, folders, locks, and what happens to them when the system refuses. */
#include "io/scratch.h"

#include <sys/wait.h>

#include "io/file.h"

static void a_file_appears_only_when_committed(void **state)
{
    const char *path = scratch_path("appears");
    csp_file *file;
    char *text;
    size_t bytes;

    (void)state;
    assert_ok(csp_file_create(path, &file));
    assert_ok(csp_file_put(file, "half ", 5));
    assert_ok(csp_file_print(file, "and %d", 2));
    assert_false(csp_file_exists(path));
    assert_true(csp_file_exists(csp_file_temporary(file)));
    assert_ok(csp_file_commit(file));
    text = scratch_read(path, &bytes);
    assert_string_equal(text, "half and 2");
    free(text);
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
}

static void an_abandoned_file_leaves_the_earlier_one(void **state)
{
    const char *path = scratch_path("kept");
    csp_file *file;
    char *text;
    size_t bytes;

    (void)state;
    assert_ok(csp_file_write(path, "one", 3));
    assert_ok(csp_file_create(path, &file));
    assert_ok(csp_file_put(file, "two", 3));
    csp_file_abandon(file);
    csp_file_abandon(NULL);
    text = scratch_read(path, &bytes);
    assert_string_equal(text, "one");
    free(text);
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
}

/* A rename would put a file in its place: /dev/null gone, a pipe's reader waiting for ever. */
static void what_is_no_file_keeps_its_place(void **state)
{
    char pipe[512];
    struct stat info;
    csp_file *file;

    (void)state;
    snprintf(pipe, sizeof(pipe), "%s", scratch_path("pipe"));
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_int_equal(csp_file_create(pipe, &file), CSP_ERR_IO);
    assert_error_has("a device or pipe");
    assert_int_equal(stat(pipe, &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
    unlink(pipe);
    assert_int_equal(csp_file_create("-", &file), CSP_ERR_IO);
    assert_error_has("not standard output");
    assert_int_equal(csp_file_create("/dev/null", &file), CSP_ERR_IO);
    assert_error_has("/dev/null: a device or pipe");
}

static void a_link_leads_to_the_file_that_is_written(void **state)
{
    char target[512], link[512];
    struct stat info;
    size_t bytes;
    char *text;

    (void)state;
    snprintf(target, sizeof(target), "%s", scratch_path("target"));
    snprintf(link, sizeof(link), "%s", scratch_path("link"));
    scratch_text(target, "one");
    assert_int_equal(symlink(target, link), 0);
    assert_ok(csp_file_write(link, "two", 3));
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    text = scratch_read(target, &bytes);
    assert_string_equal(text, "two");
    free(text);
    unlink(target); /* it leads nowhere now: a file takes the link's place, as it does any name's */
    assert_ok(csp_file_write(link, "six", 3));
    text = scratch_read(link, &bytes);
    assert_string_equal(text, "six");
    free(text);
    unlink(link);
}

static csp_status write_two(void *context)
{
    return csp_file_write(context, "two", 3);
}

static void one_or_two_is_there(void *context)
{
    size_t bytes;
    char *text = scratch_read(context, &bytes);
    const bool fsync_of_folder_failed = strstr(csp_error_text(), "its folder") != NULL;

    assert_string_equal(text, fsync_of_folder_failed ? "two" : "one");
    free(text);
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
    scratch_text(context, "one");
}

static void every_failure_of_a_write_keeps_the_earlier_file(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("faults"));
    scratch_text(path, "one");
    assert_true(walk_faults(write_two, one_or_two_is_there, path) >= 8);
}

static csp_status read_and_join(void *context)
{
    char *text, *joined, *folder;
    int64_t bytes;
    csp_status status = csp_file_read(context, 1 << 20, &text, &bytes);

    CSP_TRY(status);
    free(text);
    CSP_TRY(csp_file_join("a", "b", &joined));
    free(joined);
    CSP_TRY(csp_file_free_bytes(context, &bytes));
    CSP_TRY(csp_file_join(scratch_dir, "made/by/faults", &folder));
    status = csp_file_make_dirs(folder);
    free(folder);
    return status;
}

static void every_failure_of_reading_and_folders_has_a_message(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("long"));
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    for (int i = 0; i < 30000; i++) {
        fprintf(stream, "%09d\n", i);
    }
    fclose(stream);
    assert_true(walk_faults(read_and_join, NULL, path) >= 8);
}

static void a_full_device_is_reported(void **state)
{
    csp_file *file;
    FILE *full = fopen("/dev/full", "wb");

    (void)state;
    if (full == NULL) {
        skip();
    }
    /* The stream of a csp_file is pointed at the device that is always full. */
    assert_ok(csp_file_create(scratch_path("full"), &file));
    assert_true(dup2(fileno(full), fileno(csp_file_stream(file))) >= 0);
    fclose(full);
    assert_ok(csp_file_put(file, "small", 5)); /* still in the buffer */
    assert_int_equal(csp_file_commit(file), CSP_ERR_IO);
    assert_error_has("No space left on device");
    assert_false(csp_file_exists(scratch_path("full")));
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
}

static void a_full_device_is_reported_for_large_writes(void **state)
{
    enum { MANY = 1 << 20 };
    csp_file *file;
    FILE *full = fopen("/dev/full", "wb");
    char *block = calloc(MANY, 1);

    (void)state;
    if (full == NULL) {
        free(block);
        skip();
    }
    assert_ok(csp_file_create(scratch_path("full"), &file));
    assert_true(dup2(fileno(full), fileno(csp_file_stream(file))) >= 0);
    fclose(full);
    assert_int_equal(csp_file_put(file, block, MANY), CSP_ERR_IO);
    assert_error_has("No space left on device");
    /* A caller that goes on all the same is told again at the end. */
    assert_int_equal(csp_file_commit(file), CSP_ERR_IO);
    assert_error_has("No space left on device");
    assert_false(csp_file_exists(scratch_path("full")));
    free(block);
}

static void folders_that_cannot_be_written_are_named(void **state)
{
    csp_file *file = NULL;

    (void)state;
    assert_int_equal(csp_file_create(scratch_path("absent/x"), &file), CSP_ERR_IO);
    assert_error_has("absent/x");
    assert_error_has("No such file or directory");
    assert_null(file);
    assert_int_equal(csp_file_create("/proc/x", &file), CSP_ERR_IO);
    assert_int_equal(csp_file_create(scratch_dir, &file), CSP_ERR_IO);
    assert_error_has("Is a directory");
    scratch_text(scratch_path("plain"), "");
    assert_int_equal(csp_file_make_dirs(scratch_path("plain/sub")), CSP_ERR_IO);
    assert_error_has("plain");
    assert_int_equal(csp_file_make_dirs(scratch_path("plain")), CSP_ERR_IO);
    assert_error_has("is not a folder");
}

static void a_read_only_folder_is_reported(void **state)
{
    csp_file *file = NULL;
    const char *folder = scratch_path("readonly");

    (void)state;
    const bool root = geteuid() == 0;
    csp_status status;

    assert_int_equal(mkdir(folder, 0555), 0);
    if (root) { /* which writes everywhere: be somebody else for a moment */
        assert_int_equal(seteuid(65534), 0);
    }
    status = csp_file_create(scratch_path("readonly/x"), &file);
    if (root) {
        assert_int_equal(seteuid(0), 0);
    }
    assert_int_equal(status, CSP_ERR_IO);
    assert_null(file);
    assert_error_has("Permission denied");
}

static void reading_obeys_its_limit(void **state)
{
    const char *path = scratch_path("limit");
    char *text = NULL;
    int64_t bytes = -1;

    (void)state;
    scratch_text(path, "12345");
    assert_ok(csp_file_read(path, 5, &text, &bytes));
    assert_int_equal(bytes, 5);
    assert_string_equal(text, "12345");
    free(text);
    text = NULL;
    assert_int_equal(csp_file_read(path, 4, &text, &bytes), CSP_ERR_FORMAT);
    assert_error_has("more than the 4 bytes");
    assert_null(text);
    assert_int_equal(csp_file_read(scratch_path("none"), 4, &text, &bytes), CSP_ERR_IO);
    assert_int_equal(csp_file_read(scratch_dir, 4, &text, &bytes), CSP_ERR_IO);
    assert_error_has("Is a directory");
    scratch_text(path, "");
    assert_ok(csp_file_read(path, 0, &text, &bytes));
    assert_int_equal(bytes, 0);
    free(text);
}

static void folders_are_made_with_their_parents(void **state)
{
    char *joined;
    int64_t bytes = -1;

    (void)state;
    assert_ok(csp_file_make_dirs(scratch_path("a/b//c/")));
    assert_ok(csp_file_make_dirs(scratch_path("a/b/c")));
    assert_ok(csp_file_make_dirs("/"));
    assert_true(csp_file_is_dir(scratch_path("a/b/c")));
    assert_false(csp_file_is_dir(scratch_path("a/b/d")));
    assert_ok(csp_file_join("x/", "y", &joined));
    assert_string_equal(joined, "x/y");
    free(joined);
    assert_ok(csp_file_join("", "y", &joined));
    assert_string_equal(joined, "y");
    free(joined);
    assert_ok(csp_file_free_bytes(scratch_path("a/not/yet/there"), &bytes));
    assert_true(bytes > 0);
    bytes = -1;
    assert_ok(csp_file_free_bytes("relative-not-there", &bytes));
    assert_true(bytes > 0);
}

static void a_lock_has_one_holder_until_its_process_ends(void **state)
{
    const char *path = scratch_path("lock");
    csp_file_lock *lock, *second = NULL;
    int ready[2];
    pid_t child;
    char byte, expected[64];

    (void)state;
    assert_ok(csp_file_lock_take(path, &lock));
    assert_int_equal(csp_file_lock_take(path, &second), CSP_ERR_IO);
    snprintf(expected, sizeof(expected), "locked by process %ld on ", (long)getpid());
    assert_error_has(expected);
    assert_null(second);
    csp_file_lock_release(lock);
    csp_file_lock_release(NULL);

    assert_int_equal(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        csp_file_lock *mine;

        if (csp_file_lock_take(path, &mine) != CSP_OK || write(ready[1], "x", 1) != 1) {
            _exit(1);
        }
        pause(); /* killed without a chance to clean up */
        _exit(1);
    }
    assert_true(child > 0);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(csp_file_lock_take(path, &second), CSP_ERR_IO);
    snprintf(expected, sizeof(expected), "process %ld", (long)child);
    assert_error_has(expected);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_ok(csp_file_lock_take(path, &second));
    csp_file_lock_release(second);
    close(ready[0]);
    close(ready[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_appears_only_when_committed),
        cmocka_unit_test(an_abandoned_file_leaves_the_earlier_one),
        cmocka_unit_test(what_is_no_file_keeps_its_place),
        cmocka_unit_test(a_link_leads_to_the_file_that_is_written),
        cmocka_unit_test(every_failure_of_a_write_keeps_the_earlier_file),
        cmocka_unit_test(every_failure_of_reading_and_folders_has_a_message),
        cmocka_unit_test(a_full_device_is_reported),
        cmocka_unit_test(a_full_device_is_reported_for_large_writes),
        cmocka_unit_test(folders_that_cannot_be_written_are_named),
        cmocka_unit_test(a_read_only_folder_is_reported),
        cmocka_unit_test(reading_obeys_its_limit),
        cmocka_unit_test(folders_are_made_with_their_parents),
        cmocka_unit_test(a_lock_has_one_holder_until_its_process_ends),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
