/* test_state_shards.c - state files: read by any number of ranks, and what is wrong with them. */
#include "train/state_case.h"

#include "core/log.h"

static void any_number_of_ranks_reads_them(void **state)
{
    const csp_storage f32 = { 0 };

    (void)state;
    for (int wrote = 2; wrote <= 3; wrote++) {
        csp_state_files files;

        state_write("cpu", f32, wrote, &files);
        for (int ranks = 1; ranks <= 4; ranks++) {
            state_read_as("cpu", f32, ranks, &files, false);
        }
        csp_state_files_clear(&files);
    }
}

/* The same numbers have the same name and bytes; others another name, so that none is replaced. */
static void a_name_is_of_its_content(void **state)
{
    const csp_storage f32 = { 0 };
    char name[2][CSP_STATE_NAME_BYTES];
    csp_state_copy copy;
    float *changed;
    tiny t;

    (void)state;
    state_open(&t, "cpu", f32, 2, 1);
    state_fill(&t);
    assert_ok(csp_state_copy_take(t.model, &copy));
    for (int i = 0; i < 2; i++) {
        assert_ok(csp_state_name("adapt-00000003", 1, 2, &copy, name[i]));
        assert_ok(csp_state_write(scratch_dir, name[i], &copy));
    }
    assert_string_equal(name[0], name[1]);
    assert_non_null(strstr(name[0], "adapt-00000003.rank1of2."));
    changed = (float *)(uintptr_t)copy.pieces[0].values;
    changed[7] = -changed[7];
    assert_ok(csp_state_name("adapt-00000003", 1, 2, &copy, name[1]));
    assert_ok(csp_state_write(scratch_dir, name[1], &copy));
    assert_string_not_equal(name[0], name[1]);
    assert_int_equal(scratch_count(scratch_dir, "adapt-00000003"), 2);
    csp_state_files_remove(scratch_dir, "adapt-00000003",
                           &(csp_state_files) { .names = (char *[]) { name[1] }, .count = 1 });
    assert_int_equal(access(scratch_path(name[0]), F_OK), -1);
    assert_int_equal(access(scratch_path(name[1]), F_OK), 0);
    scratch_text(scratch_path("adapt-00000003.h5"), "");
    csp_state_files_remove(scratch_dir, NULL, NULL); /* its checkpoint is there */
    assert_int_equal(access(scratch_path(name[1]), F_OK), 0);
    assert_int_equal(unlink(scratch_path("adapt-00000003.h5")), 0);
    csp_state_files_remove(scratch_dir, NULL, NULL);
    assert_int_equal(scratch_count(scratch_dir, "adapt-00000003"), 0);
    csp_state_copy_drop(&copy); /* as while a thread writes it */
    assert_int_equal(csp_state_write(scratch_dir, name[0], &copy), CSP_ERR_INTERRUPTED);
    assert_int_equal(scratch_count(scratch_dir, "adapt-00000003"), 0);
    csp_state_copy_clear(&copy);
    tiny_close(&t);
}

static void what_is_wrong_is_named(void **state)
{
    const csp_storage f32 = { 0 };
    csp_state_files files;
    char *all, path[400];
    size_t bytes;
    tiny t;

    (void)state;
    state_write("cpu", f32, 2, &files);
    state_open(&t, "cpu", f32, 1, 0);
    files.count = 1; /* a part that nobody has */
    assert_int_equal(state_read(&files, &t), CSP_ERR_FORMAT);
    assert_non_null(strstr(csp_error_text(), "are in none of its state files"));
    files.count = 2;
    snprintf(path, sizeof(path), "%s", scratch_path(files.names[1]));
    all = scratch_read(path, &bytes);
    all[bytes / 3] ^= 4;
    scratch_write(path, all, bytes);
    assert_int_equal(state_read(&files, &t), CSP_ERR_FORMAT);
    assert_non_null(strstr(csp_error_text(), files.names[1]));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(state_read(&files, &t), CSP_ERR_FORMAT);
    assert_non_null(strstr(csp_error_text(), files.names[1]));
    assert_non_null(strstr(csp_error_text(), "is missing"));
    free(all);
    csp_state_files_clear(&files);
    tiny_close(&t);
}

/* One rank's state, and the files of an earlier time. */
typedef struct written {
    tiny *t;
    csp_state_files files;
} written;

static csp_status write_own(void *context)
{
    const written *w = context;
    char name[CSP_STATE_NAME_BYTES];
    csp_state_copy copy = { 0 };
    csp_status status;

    CSP_TRY(csp_state_copy_take(w->t->model, &copy));
    status = csp_state_name(state_stem, 1, 2, &copy, name);
    status = status == CSP_OK ? csp_state_write(scratch_path("faults"), name, &copy) : status;
    csp_state_copy_clear(&copy);
    return status;
}

static void nothing_or_all_is_there(void *context)
{
    (void)context;
    assert_int_equal(scratch_count(scratch_path("faults"), ".tmp"), 0);
    assert_true(scratch_count(scratch_path("faults"), "rank1of2") <= 1);
}

static csp_status read_all(void *context)
{
    written *w = context;

    return state_read(&w->files, w->t);
}

static void every_failing_call_says_so(void **state)
{
    const csp_storage f32 = { 0 };
    written w;
    tiny t;

    (void)state;
    assert_int_equal(mkdir(scratch_path("faults"), 0777), 0);
    state_write("cpu", f32, 2, &w.files);
    state_open(&t, "cpu", f32, 2, 1);
    state_fill(&t);
    w.t = &t;
    assert_true(walk_faults(write_own, nothing_or_all_is_there, &w) > 10);
    assert_true(walk_faults(read_all, NULL, &w) > 10);
    state_check(&t, false);
    csp_state_files_clear(&w.files);
    tiny_close(&t);
}

static int begin(void **state)
{
    csp_log_set_level(CSP_LOG_NONE); /* warnings are expected here */
    return scratch_make(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks_reads_them),
        cmocka_unit_test(a_name_is_of_its_content),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(every_failing_call_says_so),
    };

    return cmocka_run_group_tests(tests, begin, scratch_remove);
}
