/* test_data_identity.c - what the data was comes back from a file, and a difference is named. */
#include "io/scratch.h"

#include "train/data_identity.h"

static const csp_data_identity some = { .examples = 3,
                                        .documents = 4,
                                        .texts = 5,
                                        .document_digest = "d",
                                        .query_digest = "q",
                                        .example_digest = "e",
                                        .text_digest = "" };

static void a_stored_identity_comes_back(void **state)
{
    csp_data_identity back;
    csp_hdf5 *file;

    (void)state;
    assert_ok(csp_hdf5_create(scratch_path("i.h5"), &file));
    assert_ok(csp_data_identity_write(file, "/progress", &some));
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("i.h5"), &file));
    assert_ok(csp_data_identity_read(file, "/progress", &back));
    csp_hdf5_close(file);
    assert_memory_equal(&back, &some, sizeof(back));
}

static void a_file_from_before_digests_compares_sizes_alone(void **state)
{
    const csp_config config = { 0 };
    csp_data_identity back;
    csp_hdf5 *file;

    (void)state;
    assert_ok(csp_hdf5_create(scratch_path("i.h5"), &file));
    assert_ok(csp_hdf5_set_i64(file, "/progress", "examples", 3));
    assert_ok(csp_hdf5_set_i64(file, "/progress", "documents", 4));
    assert_ok(csp_hdf5_set_i64(file, "/progress", "texts", 5));
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("i.h5"), &file));
    assert_ok(csp_data_identity_read(file, "/progress", &back));
    csp_hdf5_close(file);
    assert_string_equal(back.document_digest, "");
    assert_ok(csp_data_identity_check("i.h5", &config, &back, &some));
    back.documents = 5;
    assert_int_equal(csp_data_identity_check("i.h5", &config, &back, &some), CSP_ERR_DATA);
    assert_error_has("i.h5 was made with other data: 3 examples, 5 documents");
}

static void a_difference_is_named_by_part_and_setting(void **state)
{
    csp_config files = { 0 }, lines = { 0 };
    csp_data_identity now = some;

    (void)state;
    files.data.corpus = "beir";
    lines.data.train = "t.jsonl";
    assert_ok(csp_data_identity_check("i.h5", &files, &some, &now));
    now.document_digest[0] = 'x';
    assert_int_equal(csp_data_identity_check("i.h5", &files, &some, &now), CSP_ERR_DATA);
    assert_error_has("i.h5 was made with other data: the content of the documents (data.corpus: "
                     "beir) changed");
    now = some;
    now.query_digest[0] = 'x';
    assert_int_equal(csp_data_identity_check("i.h5", &files, &some, &now), CSP_ERR_DATA);
    assert_error_has("the queries (data.queries: of the corpus)");
    assert_int_equal(csp_data_identity_check("i.h5", &lines, &some, &now), CSP_ERR_DATA);
    assert_error_has("the training lines (data.train: t.jsonl)");
    now = some;
    now.example_digest[0] = 'x';
    assert_int_equal(csp_data_identity_check("i.h5", &lines, &some, &now), CSP_ERR_DATA);
    assert_error_has("the examples (data.train: t.jsonl)");
    now = some;
    now.text_digest[0] = 'x'; /* there were none: as in a file from before digests */
    assert_ok(csp_data_identity_check("i.h5", &files, &some, &now));
    assert_int_equal(csp_data_identity_check("i.h5", &files, &now, &some), CSP_ERR_DATA);
    assert_error_has("the texts to adapt on (data.corpus: beir)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stored_identity_comes_back),
        cmocka_unit_test(a_file_from_before_digests_compares_sizes_alone),
        cmocka_unit_test(a_difference_is_named_by_part_and_setting),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
