/* file_leftovers.c - temporaries whose writers were killed, found by their name and removed. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "io/file.h"

/* Whether name ends in ".tmp." and digits: what csp_file_create makes. */
static bool is_temporary(const char *name)
{
    const char *dot = strrchr(name, '.');
    const char *digit = dot != NULL ? dot + 1 : "";

    if (dot == NULL || dot - name < 5 || memcmp(dot - 4, ".tmp", 4) != 0 || *digit == '\0') {
        return false;
    }
    while (isdigit((unsigned char)*digit)) {
        digit++;
    }
    return *digit == '\0';
}

void csp_file_remove_leftovers(const char *dir)
{
    DIR *folder = opendir(dir);

    if (folder == NULL) {
        return;
    }
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        char *path = NULL;

        if (!is_temporary(entry->d_name) || csp_file_join(dir, entry->d_name, &path) != CSP_OK) {
            continue;
        }
        if (unlink(path) != 0) {
            csp_log(CSP_LOG_WARN, "io", "%s: cannot be removed: %s", path, strerror(errno));
        }
        free(path);
    }
    closedir(folder);
}
