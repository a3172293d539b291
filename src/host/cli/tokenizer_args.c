/* tokenizer_args.c - a tokenizer from a folder, a file or a checkpoint. */
#include "cli/tokenizer_args.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/file.h"
#include "io/hdf5.h"

enum { TOKENIZER_LIMIT = 1 << 28 };

static bool is_checkpoint(const char *path)
{
    const size_t bytes = strlen(path);

    return bytes > 3 && strcmp(path + bytes - 3, ".h5") == 0 && !csp_file_is_dir(path);
}

csp_status csp_tokenizer_of(const char *path, csp_tokenizer **out)
{
    csp_hdf5 *file = NULL;
    char *json = NULL;
    csp_tensor tensor;
    csp_status status;

    if (!is_checkpoint(path)) {
        return csp_tokenizer_open(path, out);
    }
    CSP_TRY(csp_hdf5_open(path, &file));
    if (!csp_hdf5_has(file, "/tokenizer")) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: holds no tokenizer: it is no checkpoint", path);
        goto fail;
    }
    CSP_TRY_GOTO(csp_hdf5_describe(file, "/tokenizer", &tensor));
    if (tensor.dtype != CSP_U8 || tensor.ndim != 1 || tensor.dim[0] > TOKENIZER_LIMIT) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: /tokenizer is not a text of at most %d bytes", path,
                          TOKENIZER_LIMIT);
        goto fail;
    }
    CSP_TRY_GOTO(csp_alloc(path, tensor.dim[0] + 1, 1, &json));
    tensor.data = json;
    CSP_TRY_GOTO(csp_hdf5_read(file, "/tokenizer", &tensor));
    status = csp_tokenizer_from_text(json, tensor.dim[0], path, out);

fail:
    free(json);
    csp_hdf5_close(file);
    return status;
}
