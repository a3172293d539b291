/*
 * mpi.c - the transport over MPI, as the plugin libcsplade_mpi.so.
 *
 * Messages between pairs of ranks, none of which blocks. MPI moves them only while it is asked, and
 * asking without a pause would take a core from the computation that it should be hidden behind:
 * when nothing has moved the thread sleeps, longer the longer it has waited, up to half a
 * millisecond. All calls of MPI are made by the thread that opened the transport.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/mpi_plugin.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/size.h"

/* MPI counts in int; smaller than that, so that progress is seen on the way. */
enum { CHUNK_BYTES = 8 << 20, TAG_MASK = 0x7fff };

/* Waits of less than this are not slept through. */
static const double prompt_s = 20e-6;
static const double sleep_max_s = 500e-6;

/* What one message of an exchange is. */
typedef struct message {
    int rank;
    int bytes; /* to receive; -1: it is sent */
} message;

typedef struct mpi {
    csp_transport transport; /* first: a csp_transport * of ours is an mpi * */
    const csp_stop *stop;
    MPI_Comm world;
    int room, count; /* of the arrays below */
    MPI_Request *requests;
    message *messages;
    int *ready;
    MPI_Status *statuses;
} mpi;

static csp_exchange_end end_with(csp_exchange *x, csp_exchange_end end, int rank, int error)
{
    char words[MPI_MAX_ERROR_STRING] = "";
    int length;

    if (error != MPI_SUCCESS) {
        MPI_Error_string(error, words, &length);
    }
    x->rank = rank;
    (void)snprintf(x->text, sizeof(x->text), "%.*s", (int)sizeof(x->text) - 1, words);
    return end;
}

static int64_t chunks_of(int64_t bytes)
{
    return (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
}

static csp_status make_room(mpi *m, int64_t count)
{
    int32_t wanted;

    if (count <= m->room) {
        return CSP_OK;
    }
    CSP_TRY(csp_size_i32("messages of one collective", count, &wanted));
    CSP_TRY(csp_realloc("messages", count, sizeof(MPI_Request), &m->requests));
    CSP_TRY(csp_realloc("messages", count, sizeof(message), &m->messages));
    CSP_TRY(csp_realloc("messages", count, sizeof(int), &m->ready));
    CSP_TRY(csp_realloc("messages", count, sizeof(MPI_Status), &m->statuses));
    m->room = wanted;
    return CSP_OK;
}

/* Starts the messages of one piece. Returns MPI's error. */
static int start(mpi *m, const csp_piece *piece, int rank, bool is_sent, int tag)
{
    int error = MPI_SUCCESS;

    for (int64_t at = 0; at < piece->bytes && error == MPI_SUCCESS; at += CHUNK_BYTES) {
        const int64_t left = piece->bytes - at;
        const int bytes = left < CHUNK_BYTES ? (int)left : CHUNK_BYTES;
        char *data = (char *)piece->data + at;

        m->requests[m->count] = MPI_REQUEST_NULL;
        m->messages[m->count] = (message) { .rank = rank, .bytes = is_sent ? -1 : bytes };
        error = is_sent
                    ? MPI_Isend(data, bytes, MPI_BYTE, rank, tag, m->world, &m->requests[m->count])
                    : MPI_Irecv(data, bytes, MPI_BYTE, rank, MPI_ANY_TAG, m->world,
                                &m->requests[m->count]);
        m->count++;
    }
    return error;
}

static csp_exchange_end start_all(mpi *m, csp_exchange *x)
{
    const int rank = m->transport.rank, size = m->transport.size;
    int64_t count = 0;

    for (int r = 0; r < size; r++) {
        count += r != rank ? chunks_of(x->send[r].bytes) + chunks_of(x->recv[r].bytes) : 0;
    }
    m->count = 0;
    if (make_room(m, count) != CSP_OK) {
        (void)snprintf(x->text, sizeof(x->text), "%s", csp_error_text());
        return CSP_EXCHANGE_BROKEN;
    }
    for (int way = 0; way < 2; way++) { // what arrives must have its place before it does
        for (int i = 1; i < size; i++) {
            const int r = (rank + i) % size;
            const int error = start(m, way == 0 ? &x->recv[r] : &x->send[r], r, way == 1,
                                    (int)(x->tag & TAG_MASK));

            if (error != MPI_SUCCESS) {
                return end_with(x, CSP_EXCHANGE_BROKEN, r, error);
            }
        }
    }
    return CSP_EXCHANGE_DONE;
}

/* Looks at messages that have ended; the others move up. */
static csp_exchange_end finish(mpi *m, csp_exchange *x, int error, int ready)
{
    for (int i = 0; i < ready; i++) {
        const message *done = &m->messages[m->ready[i]];
        const MPI_Status *status = &m->statuses[i];
        int bytes = 0;

        if (error == MPI_ERR_IN_STATUS && status->MPI_ERROR != MPI_SUCCESS &&
            status->MPI_ERROR != MPI_ERR_PENDING) {
            int class = MPI_SUCCESS;

            MPI_Error_class(status->MPI_ERROR, &class);
            return end_with(x,
                            class == MPI_ERR_TRUNCATE ? CSP_EXCHANGE_DIFFERENT : CSP_EXCHANGE_LOST,
                            done->rank, status->MPI_ERROR);
        }
        if (done->bytes >= 0) {
            MPI_Get_count(status, MPI_BYTE, &bytes);
            if (status->MPI_TAG != (int)(x->tag & TAG_MASK) || bytes != done->bytes) {
                return end_with(x, CSP_EXCHANGE_DIFFERENT, done->rank, MPI_SUCCESS);
            }
        }
    }
    if (ready > 0) {
        int kept = 0;

        for (int i = 0; i < m->count; i++) {
            if (m->requests[i] != MPI_REQUEST_NULL) {
                m->requests[kept] = m->requests[i];
                m->messages[kept++] = m->messages[i];
            }
        }
        m->count = kept;
    }
    return CSP_EXCHANGE_DONE;
}

static void rest(double waited_s)
{
    const double seconds = waited_s / 16.0 < sleep_max_s ? waited_s / 16.0 : sleep_max_s;
    const struct timespec pause = { .tv_nsec = (long)(seconds * 1e9) };

    if (waited_s > prompt_s) {
        (void)nanosleep(&pause, NULL);
    }
}

static csp_exchange_end mpi_exchange(csp_transport *transport, csp_exchange *x)
{
    mpi *m = (mpi *)transport;
    csp_patience patience = { 0 };
    csp_exchange_end end = start_all(m, x);

    while (end == CSP_EXCHANGE_DONE && m->count > 0) {
        int ready = 0;
        const int error = MPI_Testsome(m->count, m->requests, &ready, m->ready, m->statuses);
        const double waited_s = csp_patience_turn(&patience, x->timeout_s);

        if (error != MPI_SUCCESS && error != MPI_ERR_IN_STATUS) {
            return end_with(x, CSP_EXCHANGE_BROKEN, transport->rank, error);
        }
        end = finish(m, x, error, ready);
        if (ready > 0) {
            patience = (csp_patience) { 0 };
        } else if (atomic_load(&m->stop->set)) {
            end = CSP_EXCHANGE_STOPPED;
        } else if (waited_s >= x->timeout_s) {
            for (int i = 0; i < m->count; i++) {
                x->late[m->messages[i].rank] = true;
            }
            end = CSP_EXCHANGE_LATE;
        } else {
            rest(waited_s);
        }
    }
    return end;
}

/*
 * Where a rank has failed MPI is left as it is: MPI_Finalize would wait for that rank, and messages
 * may still be open. Nothing moves them any more.
 */
static void mpi_close(csp_transport *transport, bool orderly)
{
    mpi *m = (mpi *)transport;

    if (orderly) {
        MPI_Comm_free(&m->world);
        MPI_Finalize();
    }
    free(m->requests);
    free(m->messages);
    free(m->ready);
    free(m->statuses);
    free(m);
}

static csp_status fail_mpi(const char *call, int error)
{
    char words[MPI_MAX_ERROR_STRING] = "";
    int length;

    MPI_Error_string(error, words, &length);
    return CSP_FAIL(CSP_ERR_COMM, "%s: %s", call, words);
}

/* A world of our own, and which of its ranks are on this machine. */
static csp_status look_around(mpi *m)
{
    MPI_Comm machine;
    int error = MPI_Comm_dup(MPI_COMM_WORLD, &m->world);

    if (error != MPI_SUCCESS) {
        return fail_mpi("MPI_Comm_dup", error);
    }
    MPI_Comm_set_errhandler(m->world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(m->world, &m->transport.rank);
    MPI_Comm_size(m->world, &m->transport.size);
    error = MPI_Comm_split_type(m->world, MPI_COMM_TYPE_SHARED, m->transport.rank, MPI_INFO_NULL,
                                &machine);
    if (error != MPI_SUCCESS) {
        return fail_mpi("MPI_Comm_split_type", error);
    }
    MPI_Comm_rank(machine, &m->transport.local_rank);
    MPI_Comm_size(machine, &m->transport.local_size);
    MPI_Comm_free(&machine);
    return CSP_OK;
}

static csp_status mpi_open(const csp_launch *launch, const csp_stop *stop, csp_transport **out)
{
    mpi *m = NULL;
    csp_status status;
    int provided, error;

    CSP_TRY(csp_alloc_zero("MPI", 1, sizeof(*m), &m));
    m->transport.exchange = mpi_exchange;
    m->transport.close = mpi_close;
    m->stop = stop;
    error = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (error != MPI_SUCCESS) {
        free(m);
        return fail_mpi("MPI_Init_thread", error);
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    status = provided < MPI_THREAD_FUNNELED
                 ? CSP_FAIL(CSP_ERR_UNSUPPORTED, "this MPI was built without threads")
                 : look_around(m);
    if (status == CSP_OK &&
        (m->transport.size != launch->size || m->transport.rank != launch->rank)) {
        status =
            CSP_FAIL(CSP_ERR_CONFIG,
                     "%s started rank %d of %d, and MPI says rank %d of %d: the launcher and "
                     "the library belong to different MPIs",
                     launch->by, launch->rank, launch->size, m->transport.rank, m->transport.size);
    }
    if (status != CSP_OK) {
        free(m);
        return status;
    }
    *out = &m->transport;
    return CSP_OK;
}

static void mpi_describe(char *text, size_t bytes)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;

    /* The first of its parts is name and version; others tell who built it where. */
    MPI_Get_library_version(version, &length);
    (void)snprintf(text, bytes, "%.*s", (int)strcspn(version, ",\n"), version);
}

/* What the program looks for. */
extern const csp_mpi_plugin csp_mpi_transport;
__attribute__((visibility("default"))) const csp_mpi_plugin csp_mpi_transport = {
    .interface = CSP_MPI_INTERFACE,
    .exchange_bytes = sizeof(csp_exchange),
    .describe = mpi_describe,
    .open = mpi_open,
};
