/* vectors_contract.c - the text contract under which vectors were encoded. */
#include <jansson.h>
#include <stdlib.h>

#include "io/vectors.h"

csp_status csp_vectors_contract(const csp_vectors *v, const char *path, csp_contract *out,
                                bool *has)
{
    json_t *meta = v->meta != NULL ? json_loads(v->meta, JSON_REJECT_DUPLICATES, NULL) : NULL;
    json_t *contract = json_object_get(meta, "contract");
    char *text = contract != NULL ? json_dumps(contract, JSON_ENCODE_ANY) : NULL;
    csp_status status = CSP_OK;

    *has = text != NULL;
    if (text != NULL) {
        status = csp_contract_from_json(text, path, out);
    }
    free(text);
    json_decref(meta);
    return status;
}
