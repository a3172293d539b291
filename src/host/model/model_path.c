/* model_path.c - names what stands at a path where a model is looked for. */
#include "model/model_path.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/hdf5.h"

enum { NAME_LIMIT = 4096 };

/* Whether a folder has a file of this name. */
static csp_status has(const char *dir, const char *name, bool *out)
{
    char *path;

    CSP_TRY(csp_file_join(dir, name, &path));
    *out = csp_file_exists(path);
    free(path);
    return CSP_OK;
}

/* Refuses a run's folder: it has many models, of which the caller means one. */
static csp_status refuse_run(const char *dir, const char *latest)
{
    char *path = NULL, *name = NULL;
    int64_t bytes;
    csp_status status;

    CSP_TRY_GOTO(csp_file_join(dir, latest, &path));
    CSP_TRY_GOTO(csp_file_read(path, NAME_LIMIT, &name, &bytes));
    name[strcspn(name, "\r\n")] = '\0';
    status = CSP_FAIL(CSP_ERR_IO,
                      "%s: a run's folder and no model: name one of its checkpoints; the newest is "
                      "%s/checkpoints/%.200s",
                      dir, dir, name);

fail:
    free(path);
    free(name);
    return status;
}

csp_status csp_model_path_check(const char *path)
{
    static const char latest[] = "checkpoints/LATEST";
    bool model = false, adapter = false, run = false;

    if (!csp_file_exists(path)) {
        return CSP_FAIL(CSP_ERR_IO, "%s: cannot open: there is no such file or folder", path);
    }
    if (!csp_file_is_dir(path)) {
        return CSP_OK;
    }
    CSP_TRY(has(path, "config.json", &model));
    CSP_TRY(has(path, "adapter_config.json", &adapter));
    CSP_TRY(has(path, latest, &run));
    if (model) {
        return CSP_OK;
    }
    if (run) {
        return refuse_run(path, latest);
    }
    if (adapter) {
        return CSP_FAIL(CSP_ERR_IO,
                        "%s: a PEFT adapter and no model: training takes it as lora.init, over the "
                        "folder of its base model",
                        path);
    }
    return CSP_FAIL(CSP_ERR_IO, "%s: holds no config.json: not the folder of a model", path);
}

static csp_status read_checkpoint(const char *path, csp_model_config *out)
{
    csp_hdf5 *file = NULL;
    char *text = NULL;
    csp_status status;

    CSP_TRY(csp_hdf5_open(path, &file));
    CSP_TRY_GOTO(csp_hdf5_get_text(file, "/", "config_json", &text));
    status = csp_model_config_parse(text, (int64_t)strlen(text), path, out);

fail:
    csp_hdf5_close(file);
    free(text);
    return status;
}

csp_status csp_model_path_config(const char *path, csp_model_config *out)
{
    char *file = NULL;
    csp_status status;

    CSP_TRY(csp_model_path_check(path));
    if (!csp_file_is_dir(path)) {
        return read_checkpoint(path, out);
    }
    CSP_TRY(csp_file_join(path, "config.json", &file));
    status = csp_model_config_read(file, out);
    free(file);
    return status;
}
