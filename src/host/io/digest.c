/* digest.c - the streaming state of xxHash behind core's types. */
#include "io/digest.h"

#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "core/memory.h"

struct csp_digest {
    XXH3_state_t *state;
};

csp_status csp_digest_create(csp_digest **out)
{
    csp_digest *digest;

    CSP_TRY(csp_alloc_zero("digest", 1, sizeof(*digest), &digest));
    digest->state = XXH3_createState();
    if (digest->state == NULL) {
        free(digest);
        return CSP_FAIL(CSP_ERR_MEMORY, "digest: no memory for xxHash");
    }
    XXH3_128bits_reset(digest->state);
    *out = digest;
    return CSP_OK;
}

void csp_digest_destroy(csp_digest *digest)
{
    if (digest != NULL) {
        XXH3_freeState(digest->state);
        free(digest);
    }
}

void csp_digest_add(csp_digest *digest, const void *data, int64_t bytes)
{
    if (bytes > 0) {
        XXH3_128bits_update(digest->state, data, (size_t)bytes);
    }
}

void csp_digest_say(const csp_digest *digest, char text[CSP_DIGEST_TEXT_BYTES])
{
    const XXH128_hash_t hash = XXH3_128bits_digest(digest->state);

    snprintf(text, CSP_DIGEST_TEXT_BYTES, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
}
