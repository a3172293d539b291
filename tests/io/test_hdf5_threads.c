/*
 * test_hdf5_threads.c - several threads in HDF5 at once, each with files of its own: the bytes of
 * one thread alone, and what is read back; and that calls exclude each other. (Some builds of the
 * library, Debian's among them, have a lock of their own: there only the second would fail.)
 */
#include "io/scratch.h"

#include <pthread.h>

#include "io/hdf5.h"

enum { THREADS = 4, FILES = 40, NUMBERS = 20000 };

static float numbers[NUMBERS];
static char *want; /* the bytes of one file */
static size_t want_bytes;

static csp_status write_file(const char *path)
{
    static const char *const words[] = { "one", "", "three" };
    const csp_tensor t = csp_tensor_view(numbers, CSP_F32, 2, (int64_t[]) { 100, NUMBERS / 100 });
    const csp_tensor half = csp_tensor_view(numbers, CSP_BF16, 1, (int64_t[]) { NUMBERS });
    csp_hdf5 *file;
    csp_status status;

    CSP_TRY(csp_hdf5_create(path, &file));
    for (int i = 0; i < 4; i++) {
        char name[32];

        snprintf(name, sizeof(name), "/optim/%c/row.%d", i % 2 == 0 ? 'm' : 'v', i);
        CSP_TRY_GOTO(csp_hdf5_write(file, name, i < 3 ? &t : &half));
        CSP_TRY_GOTO(csp_hdf5_set_i64(file, "/progress", name + 9, i));
        CSP_TRY_GOTO(csp_hdf5_append(file, "/grows", CSP_F32, numbers, NUMBERS / 3));
    }
    CSP_TRY_GOTO(csp_hdf5_set_text(file, "/", "format", "threads"));
    CSP_TRY_GOTO(csp_hdf5_set_f64(file, "/progress", "best", 0.5));
    CSP_TRY_GOTO(csp_hdf5_write_strings(file, "/words", words, 3));
    return csp_hdf5_commit(file);

fail:
    csp_hdf5_close(file);
    return status;
}

static csp_status count_names(const char *name, void *context)
{
    (void)name;
    ++*(int *)context;
    return CSP_OK;
}

/* Reads what is there, and asks for what is not: failures are part of normal life. */
static csp_status read_file(const char *path)
{
    csp_tensor back = csp_tensor_view(NULL, CSP_F32, 2, (int64_t[]) { 100, NUMBERS / 100 });
    char *format = NULL;
    int count = 0;
    csp_hdf5 *file;
    csp_status status;
    int64_t value;

    CSP_TRY(csp_hdf5_open(path, &file));
    back.data = malloc(sizeof(numbers));
    CSP_TRY_GOTO(csp_hdf5_read(file, "/optim/m/row.2", &back));
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "format", &format));
    CSP_TRY_GOTO(csp_hdf5_get_i64(file, "/progress", "row.3", &value));
    CSP_TRY_GOTO(csp_hdf5_visit(file, "/optim", count_names, &count));
    if (memcmp(back.data, numbers, sizeof(numbers)) != 0 || strcmp(format, "threads") != 0 ||
        value != 3 || count != 4 || csp_hdf5_has(file, "/nothing") ||
        csp_hdf5_get_i64(file, "/progress", "nothing", &value) != CSP_ERR_FORMAT ||
        strstr(csp_error_text(), "attribute nothing of /progress is not there") == NULL) {
        status = CSP_FAIL(CSP_ERR_DATA, "%s: not what was written", path);
    }

fail:
    free(back.data);
    free(format);
    csp_hdf5_close(file);
    return status;
}

typedef struct worker {
    pthread_t thread;
    int number, written;
    char said[256];
} worker;

/* No assertions here: they jump to the test's own thread. */
static void *work(void *argument)
{
    worker *w = argument;

    for (int i = 0; i < FILES; i++) {
        char path[600];

        snprintf(path, sizeof(path), "%s/%d-%d.h5", scratch_dir, w->number, i);
        if (write_file(path) != CSP_OK || read_file(path) != CSP_OK) {
            snprintf(w->said, sizeof(w->said), "%s", csp_error_text());
            return NULL;
        }
        w->written++;
    }
    return NULL;
}

static void threads_write_and_read_what_one_does(void **state)
{
    worker workers[THREADS] = { 0 };

    (void)state;
    for (int i = 0; i < NUMBERS; i++) {
        numbers[i] = (float)i / 7.0f;
    }
    assert_ok(write_file(scratch_path("alone.h5")));
    want = scratch_read(scratch_path("alone.h5"), &want_bytes);
    for (int i = 0; i < THREADS; i++) {
        workers[i].number = i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_string_equal(workers[i].said, "");
        assert_int_equal(workers[i].written, FILES);
        for (int j = 0; j < FILES; j++) {
            char name[32];
            size_t bytes;
            char *got;

            snprintf(name, sizeof(name), "%d-%d.h5", i, j);
            got = scratch_read(scratch_path(name), &bytes);
            assert_int_equal(bytes, want_bytes);
            assert_memory_equal(got, want, bytes);
            free(got);
        }
    }
    free(want);
}

typedef struct meeting {
    csp_hdf5 *other;
    pthread_t thread;
    bool began, came_through; /* atomic */
    int visits;
} meeting;

static void *look(void *argument)
{
    meeting *m = argument;

    __atomic_store_n(&m->began, true, __ATOMIC_RELEASE);
    if (csp_hdf5_has(m->other, "/words")) {
        __atomic_store_n(&m->came_through, true, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* Called from inside a call: no other thread comes through one until this one is done. */
static csp_status stay(const char *name, void *context)
{
    meeting *m = context;

    (void)name;
    if (m->visits++ == 0 && pthread_create(&m->thread, NULL, look, m) != 0) {
        return CSP_ERR_MEMORY;
    }
    while (!__atomic_load_n(&m->began, __ATOMIC_ACQUIRE)) {
        usleep(100);
    }
    usleep(20000);
    return __atomic_load_n(&m->came_through, __ATOMIC_ACQUIRE) ? CSP_ERR_DATA : CSP_OK;
}

static void one_call_waits_for_another(void **state)
{
    meeting m = { 0 };
    csp_hdf5 *file;

    (void)state;
    assert_ok(write_file(scratch_path("a.h5")));
    assert_ok(write_file(scratch_path("b.h5")));
    assert_ok(csp_hdf5_open(scratch_path("a.h5"), &file));
    assert_ok(csp_hdf5_open(scratch_path("b.h5"), &m.other));
    assert_int_equal(csp_hdf5_visit(file, "/optim", stay, &m), CSP_OK);
    assert_int_equal(m.visits, 4);
    assert_int_equal(pthread_join(m.thread, NULL), 0);
    assert_true(m.came_through);
    csp_hdf5_close(file);
    csp_hdf5_close(m.other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_write_and_read_what_one_does),
        cmocka_unit_test(one_call_waits_for_another),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
