/* meet.c - ranks tell one another their version, machine and process. */
#include "comm/meet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/control.h"
#include "core/memory.h"

/* The first line of a file; "" where there is none. */
static void read_line(const char *path, char *out, size_t bytes)
{
    FILE *file = fopen(path, "r");

    out[0] = '\0';
    if (file != NULL) {
        if (fgets(out, (int)bytes, file) == NULL) {
            out[0] = '\0';
        }
        fclose(file);
        out[strcspn(out, "\n")] = '\0';
    }
}

/*
 * A machine is told by its boot and its name: containers of one machine have its boot, and where
 * they have names of their own they do not share what ranks of a machine share.
 */
static void fill(csp_rank_card *card, const csp_launch *launch, const char *version)
{
    char boot[48];

    memset(card, 0, sizeof(*card));
    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    if (gethostname(card->host, sizeof(card->host) - 1) != 0 || card->host[0] == '\0') {
        (void)snprintf(card->host, sizeof(card->host), "unknown");
    }
    (void)snprintf(card->machine, sizeof(card->machine), "%s %s", boot, card->host);
    (void)snprintf(card->version, sizeof(card->version), "%s", version);
    (void)snprintf(card->devices, sizeof(card->devices), "%s", launch->devices);
    card->pid = getpid();
}

/* Cards come from other processes: texts end. */
static void close_texts(csp_rank_card *card)
{
    card->version[sizeof(card->version) - 1] = '\0';
    card->machine[sizeof(card->machine) - 1] = '\0';
    card->host[sizeof(card->host) - 1] = '\0';
    card->devices[sizeof(card->devices) - 1] = '\0';
}

static csp_status check_versions(const csp_comm *comm)
{
    const csp_rank_card *zero = &comm->cards[0];

    for (int r = 1; r < comm->size; r++) {
        const csp_rank_card *card = &comm->cards[r];

        if (strcmp(card->version, zero->version) != 0) {
            return CSP_FAIL(CSP_ERR_CONFIG,
                            "ranks run different versions of csplade: rank 0 on %s has %s, rank %d "
                            "on %s has %s",
                            zero->host, zero->version, r, card->host, card->version);
        }
    }
    return CSP_OK;
}

static void find_local(csp_comm *comm)
{
    const char *own = comm->cards[comm->rank].machine;

    if (comm->transport->local_rank >= 0) {
        comm->local_rank = comm->transport->local_rank;
        comm->local_size = comm->transport->local_size;
        return;
    }
    comm->local_rank = comm->local_size = 0;
    for (int r = 0; r < comm->size; r++) {
        if (strcmp(comm->cards[r].machine, own) == 0) {
            comm->local_rank += r < comm->rank;
            comm->local_size++;
        }
    }
}

csp_status csp_meet(csp_comm *comm)
{
    const char *version = comm->options.version;
    int64_t *bytes = NULL;
    csp_rank_card *own = &comm->cards[comm->rank];
    csp_status status;

    fill(own, &comm->launch, version != NULL ? version : CSPLADE_DESCRIBE);
    CSP_TRY(csp_alloc("ranks", comm->size, sizeof(int64_t), &bytes));
    for (int r = 0; r < comm->size; r++) {
        bytes[r] = sizeof(csp_rank_card);
    }
    status = csp_comm_gather(comm, own, comm->cards, bytes, "the first meeting");
    free(bytes);
    CSP_TRY(status);
    for (int r = 0; r < comm->size; r++) {
        close_texts(&comm->cards[r]);
    }
    find_local(comm);
    CSP_TRY(check_versions(comm));
    return csp_control_start(comm);
}
