/*
 * nccl.cc - the fake NCCL. Ranks are processes; a group of them meets in a file without a name,
 * which the process that made the id holds open: one slot for each rank's data, and how far each
 * has come.
 *
 * A collective is work of its stream that may have to wait. It goes on when every rank has put its
 * input into its slot; then each forms the result from all slots, sums in the order of ranks in the
 * type of the data, as one of the orders that NCCL may choose. Only communicators that never block
 * are there; what such a one is given it takes some questions later, so that a caller who does not
 * ask finds his stream without it.
 *
 * A rank that does not come is waited for until ncclCommAbort.
 */
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "emulator/control.h"
#include "emulator/nccl_fake.h"
#include "emulator/sanitizer.h"
#include "emulator/stream.h"

using namespace emu;

namespace
{

enum { MOST_RANKS = 16, VERSION = 22809 };
const size_t SLOT = (size_t)64 << 20;

enum Kind { ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST };
const char *const kind_names[] = { "ncclAllReduce", "ncclReduce", "ncclReduceScatter",
                                   "ncclAllGather", "ncclBroadcast" };

/* What all ranks must agree on in a collective. */
struct Terms {
    int32_t kind, type, op, root;
    uint64_t count; /* of the call */
};

/* One rank, in the memory that all share. */
struct Place {
    std::atomic<int32_t> attached, device;
    std::atomic<int64_t> arrived, done; /* collectives whose input is in the slot; that are over */
    Terms terms;                        /* of the latest that has arrived */
};

struct Shared {
    Place place[MOST_RANKS];
};

struct Group {
    Shared *shared; /* NULL: not found yet */
    char *slots;
    int rank, size;
    int64_t begun, done; /* collectives on a stream, over */
    bool aborted, finalizing;
    nccl_result failure; /* NCCL_OK: none */
    char last[200];
};

/* A call, on its way to the stream and then in it. */
struct Request {
    Terms terms;
    const void *in;
    void *out;
    cudaStream_t stream;
    std::shared_ptr<Group> group;
    int64_t number;
    bool arrived, breaks;
};

} // namespace

struct ncclComm {
    std::shared_ptr<Group> group;
    nccl_id id;
    std::deque<Request> given; /* not on their streams yet */
    int questions;             /* until they are           */
};

namespace
{

std::set<nccl_comm> alive;
std::mutex aborting; /* each in a thread of its own */
int group_depth, breaking;
std::vector<std::pair<nccl_comm, Request>> grouped;

size_t bytes_of(int type)
{
    return type == NCCL_BYTE ? 1 : type == NCCL_I32 || type == NCCL_F32 ? 4 : 8;
}

nccl_comm checked(nccl_comm comm, const char *who)
{
    if (alive.count(comm) == 0) {
        fail({ nullptr, 0 }, "%s: no communicator, or one that has been destroyed", who);
    }
    return comm;
}

/* Elements that a rank brings, and that it gets. */
uint64_t in_count(const Terms &t, int size)
{
    return t.kind == REDUCE_SCATTER ? t.count * (uint64_t)size : t.count;
}

uint64_t out_count(const Terms &t, int size)
{
    return t.kind == ALL_GATHER ? t.count * (uint64_t)size : t.count;
}

bool brings(const Terms &t, int rank)
{
    return t.kind != BROADCAST || rank == t.root;
}

bool gets(const Terms &t, int rank)
{
    return t.kind != REDUCE || rank == t.root;
}

template <typename T> T combine(T a, T b, int op)
{
    return op == NCCL_SUM ? (T)(a + b) : op == NCCL_MAX ? (a > b ? a : b) : (a < b ? a : b);
}

/* NaN gives way to a number, as in the instructions of a GPU. */
template <> float combine(float a, float b, int op)
{
    return op == NCCL_SUM ? a + b : op == NCCL_MAX ? fmaxf(a, b) : fminf(a, b);
}

template <> double combine(double a, double b, int op)
{
    return op == NCCL_SUM ? a + b : op == NCCL_MAX ? fmax(a, b) : fmin(a, b);
}

template <typename T> void reduce(const Group &g, const Terms &t, uint64_t first, void *out)
{
    for (uint64_t i = 0; i < t.count; i++) {
        T sum = ((const T *)g.slots)[first + i];

        for (int r = 1; r < g.size; r++) {
            sum = combine(sum, ((const T *)(g.slots + (size_t)r * SLOT))[first + i], t.op);
        }
        ((T *)out)[i] = sum;
    }
}

void form(const Request &o)
{
    const Group &g = *o.group;
    const Terms &t = o.terms;
    const size_t bytes = t.count * bytes_of(t.type);
    const uint64_t first = t.kind == REDUCE_SCATTER ? t.count * (uint64_t)g.rank : 0;

    if (t.kind == BROADCAST) {
        memcpy(o.out, g.slots + (size_t)t.root * SLOT, bytes);
    } else if (t.kind == ALL_GATHER) {
        for (int r = 0; r < g.size; r++) {
            memcpy((char *)o.out + (size_t)r * bytes, g.slots + (size_t)r * SLOT, bytes);
        }
    } else if (t.type == NCCL_F32) {
        reduce<float>(g, t, first, o.out);
    } else if (t.type == NCCL_F64) {
        reduce<double>(g, t, first, o.out);
    } else if (t.type == NCCL_I32) {
        reduce<int32_t>(g, t, first, o.out);
    } else if (t.type == NCCL_I64) {
        reduce<int64_t>(g, t, first, o.out);
    } else {
        reduce<int8_t>(g, t, first, o.out);
    }
}

void check_terms(const Group &g, const Request &o)
{
    for (int r = 0; r < g.size; r++) {
        const Terms &t = g.shared->place[r].terms;

        if (g.shared->place[r].arrived.load() == o.number && memcmp(&t, &o.terms, sizeof(t)) != 0) {
            fail({ nullptr, 0 },
                 "ranks are in different collectives: rank %d in %s of %llu (type %d, op %d, root "
                 "%d), rank %d in %s of %llu (type %d, op %d, root %d)",
                 g.rank, kind_names[o.terms.kind], (unsigned long long)o.terms.count, o.terms.type,
                 o.terms.op, o.terms.root, r, kind_names[t.kind], (unsigned long long)t.count,
                 t.type, t.op, t.root);
        }
    }
}

bool all_are_at(const Group &g, bool done, int64_t number)
{
    for (int r = 0; r < g.size; r++) {
        const Place &p = g.shared->place[r];

        if ((done ? p.done : p.arrived).load() < number) {
            return false;
        }
    }
    return true;
}

/* Puts the input where the others find it, once they have read what was there. */
bool arrive(Request *o)
{
    Group &g = *o->group;
    Place &p = g.shared->place[g.rank];
    const size_t bytes = in_count(o->terms, g.size) * bytes_of(o->terms.type);

    if (!all_are_at(g, true, o->number - 1)) {
        return false;
    }
    if (brings(o->terms, g.rank)) {
        check_read(o->in, bytes, kind_names[o->terms.kind]);
        tsan_ignore_begin();
        memcpy(g.slots + (size_t)g.rank * SLOT, o->in, bytes);
        tsan_ignore_end();
    }
    p.terms = o->terms;
    p.arrived.store(o->number);
    o->arrived = true;
    return true;
}

/* Goes on with a collective as far as it can; true: it is over. */
bool go_on(Request *o)
{
    Group &g = *o->group;
    const size_t bytes = out_count(o->terms, g.size) * bytes_of(o->terms.type);

    if (g.aborted) {
        return true;
    }
    if (o->breaks && g.failure == NCCL_OK) {
        g.failure = NCCL_REMOTE_ERROR;
        (void)snprintf(g.last, sizeof(g.last), "connection closed by the emulator");
    }
    if (g.failure != NCCL_OK || (!o->arrived && !arrive(o))) {
        return false;
    }
    if (!all_are_at(g, false, o->number)) {
        return false;
    }
    check_terms(g, *o);
    if (gets(o->terms, g.rank)) {
        check_write(o->out, bytes, kind_names[o->terms.kind]);
        tsan_ignore_begin();
        form(*o);
        tsan_ignore_end();
    }
    g.shared->place[g.rank].done.store(o->number);
    g.done = o->number;
    return true;
}

/* In place is one way only; else what is read and written must not overlap. */
void check_overlap(const Request &o, const Group &g)
{
    const char *who = kind_names[o.terms.kind];
    const size_t size = bytes_of(o.terms.type), part = o.terms.count * size;
    const char *in = (const char *)o.in, *out = (const char *)o.out;
    const size_t in_bytes = in_count(o.terms, g.size) * size;
    const size_t out_bytes = out_count(o.terms, g.size) * size;
    bool in_place = in == out;

    if ((brings(o.terms, g.rank) && !is_device(in)) || (gets(o.terms, g.rank) && !is_device(out))) {
        fail({ nullptr, 0 }, "%s is given the address of host memory", who);
    }
    if (!brings(o.terms, g.rank) || !gets(o.terms, g.rank)) {
        return;
    }
    if (o.terms.kind == ALL_GATHER) {
        in_place = in == out + (size_t)g.rank * part;
    } else if (o.terms.kind == REDUCE_SCATTER) {
        in_place = out == in + (size_t)g.rank * part;
    }
    if (!in_place && in < out + out_bytes && out < in + in_bytes) {
        fail({ nullptr, 0 }, "%s: what is read overlaps what is written", who);
    }
}

nccl_result give(Kind kind, const void *in, void *out, size_t count, nccl_type type, int op,
                 int root, nccl_comm comm, cudaStream_t stream)
{
    const std::shared_ptr<Group> g = checked(comm, kind_names[kind])->group;
    const Request o = { { kind, type, op, root, count }, in, out, stream, g, 0, false, false };

    if (g->shared == nullptr || g->aborted || g->finalizing || root < 0 || root >= g->size) {
        return NCCL_INVALID_USAGE;
    }
    if (in_count(o.terms, g->size) * bytes_of(type) > SLOT) {
        fail({ nullptr, 0 }, "%s: more than the emulator has room for", kind_names[kind]);
    }
    check_overlap(o, *g);
    grouped.push_back({ comm, o });
    if (group_depth > 0) {
        return NCCL_OK;
    }
    group_depth = 1;
    return ncclGroupEnd();
}

/* Puts what a communicator was given on its streams. */
void take(nccl_comm comm)
{
    while (!comm->given.empty()) {
        const auto o = std::make_shared<Request>(comm->given.front());
        Group &g = *comm->group;

        comm->given.pop_front();
        o->number = ++g.begun;
        o->breaks = breaking > 0 && --breaking == 0;
        if (enqueue_poll(
                o->stream, [o]() { return go_on(o.get()); }, kind_names[o->terms.kind]) !=
            cudaSuccess) {
            g.failure = NCCL_CUDA_ERROR;
            (void)snprintf(g.last, sizeof(g.last), "%s", cudaGetErrorString(cudaGetLastError()));
        }
    }
}

/* Looks for the file of the id, and enters; the process that made it may be gone. */
void attach(ncclComm *comm)
{
    Group &g = *comm->group;
    const size_t bytes = sizeof(Shared) + (size_t)g.size * SLOT;
    const int file = open(comm->id.bytes, O_RDWR | O_CLOEXEC);
    void *at;

    if (file < 0) {
        return;
    }
    at = ftruncate(file, (off_t)(sizeof(Shared) + MOST_RANKS * SLOT)) == 0
             ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0)
             : MAP_FAILED;
    close(file);
    if (at == MAP_FAILED) {
        return;
    }
    g.shared = (Shared *)at;
    g.slots = (char *)at + sizeof(Shared);
    g.shared->place[g.rank].device.store(emu::device_of_machine());
    g.shared->place[g.rank].attached.store(1);
}

/* Whether the next collective of a communicator but this one waits for ranks that have not come. */
bool another_waits(nccl_comm comm)
{
    for (const nccl_comm other : alive) {
        const Group &g = *other->group;

        if (other != comm && !g.aborted && g.done < g.begun && !all_are_at(g, false, g.done + 1)) {
            return true;
        }
    }
    return false;
}

/* Whether all ranks have come, and have a device of their own. */
bool have_met(Group *g)
{
    for (int r = 0; r < g->size; r++) {
        if (g->shared->place[r].attached.load() == 0) {
            return false;
        }
    }
    for (int r = 0; r < g->size; r++) {
        for (int s = 0; s < r && g->failure == NCCL_OK; s++) {
            if (g->shared->place[r].device.load() == g->shared->place[s].device.load()) {
                g->failure = NCCL_INVALID_USAGE;
                (void)snprintf(g->last, sizeof(g->last),
                               "Duplicate GPU detected : rank %d and rank %d both on CUDA device "
                               "%d",
                               s, r, g->shared->place[r].device.load());
            }
        }
    }
    return true;
}

} // namespace

void emu_nccl_break(int n)
{
    breaking = n;
}

nccl_result ncclGetVersion(int *version)
{
    const char *text = getenv("CSP_EMU_NCCL");

    *version = text != nullptr && atoi(text) > 1 ? atoi(text) : VERSION;
    return NCCL_OK;
}

nccl_result ncclGetUniqueId(nccl_id *id)
{
    const int file = memfd_create("emulator-nccl", MFD_CLOEXEC);

    if (planned_failure() || file < 0) {
        return NCCL_SYSTEM_ERROR;
    }
    memset(id, 0, sizeof(*id));
    (void)snprintf(id->bytes, sizeof(id->bytes), "/proc/%d/fd/%d", (int)getpid(), file);
    return NCCL_OK;
}

nccl_result ncclCommInitRankConfig(nccl_comm *comm, int size, nccl_id id, int rank,
                                   nccl_config *config)
{
    if (config->magic != NCCL_CONFIG_MAGIC || config->size < 20 || config->version < 21400 ||
        size < 1 || size > MOST_RANKS || rank < 0 || rank >= size) {
        return NCCL_INVALID_ARGUMENT;
    }
    if (config->blocking != 0) {
        fail({ nullptr, 0 }, "ncclCommInitRankConfig: communicators that block are not emulated");
    }
    if (planned_failure()) {
        return NCCL_SYSTEM_ERROR;
    }
    *comm = new ncclComm { std::make_shared<Group>(), id, {}, 0 };
    (*comm)->group->rank = rank;
    (*comm)->group->size = size;
    alive.insert(*comm);
    return NCCL_IN_PROGRESS;
}

nccl_result ncclCommGetAsyncError(nccl_comm comm, nccl_result *state)
{
    Group &g = *checked(comm, "ncclCommGetAsyncError")->group;

    if (g.shared == nullptr) {
        attach(comm);
    }
    if (g.shared == nullptr || !have_met(&g)) {
        *state = NCCL_IN_PROGRESS;
    } else if (g.failure != NCCL_OK) {
        *state = g.failure;
    } else if (!comm->given.empty() && comm->questions-- > 0) {
        *state = NCCL_IN_PROGRESS;
    } else {
        take(comm);
        *state = g.failure != NCCL_OK               ? g.failure
                 : g.finalizing && g.done < g.begun ? NCCL_IN_PROGRESS
                                                    : NCCL_OK;
    }
    return NCCL_OK;
}

nccl_result ncclCommFinalize(nccl_comm comm)
{
    Group &g = *checked(comm, "ncclCommFinalize")->group;

    if (g.shared == nullptr || g.finalizing || !comm->given.empty()) {
        return NCCL_INVALID_USAGE;
    }
    g.finalizing = true;
    return NCCL_IN_PROGRESS;
}

nccl_result ncclCommDestroy(nccl_comm comm)
{
    const Group &g = *checked(comm, "ncclCommDestroy")->group;

    if (!g.finalizing || g.done < g.begun) {
        fail({ nullptr, 0 }, "ncclCommDestroy: %s",
             g.finalizing ? "a collective is under way" : "without ncclCommFinalize it may block");
    }
    alive.erase(comm);
    delete comm;
    return NCCL_OK;
}

/*
 * What is under way on streams ends when they go on. Memory of the device is freed, and so it takes
 * until no other communicator's kernel is left that waits for a rank: one whose abort is called too
 * late ends the process, where with NCCL it would wait for ever.
 */
nccl_result ncclCommAbort(nccl_comm comm)
{
    const struct timespec pause = { 0, 200 * 1000 };
    std::unique_lock<std::mutex> lock(aborting);

    checked(comm, "ncclCommAbort")->group->aborted = true;
    for (int turn = 0; another_waits(comm); turn++) {
        if (turn == 25000) {
            fail({ nullptr, 0 }, "ncclCommAbort waits for a collective of another communicator, "
                                 "which nobody aborts meanwhile");
        }
        lock.unlock();
        nanosleep(&pause, nullptr);
        lock.lock();
    }
    alive.erase(comm);
    delete comm;
    return NCCL_OK;
}

const char *ncclGetLastError(nccl_comm comm)
{
    return comm != nullptr ? checked(comm, "ncclGetLastError")->group->last : "";
}

const char *ncclGetErrorString(nccl_result result)
{
    static const char *const words[] = { "no error",
                                         "unhandled cuda error",
                                         "unhandled system error",
                                         "internal error",
                                         "invalid argument",
                                         "invalid usage",
                                         "remote process exited or there was a network error",
                                         "NCCL operation in progress" };

    return result >= 0 && result < 8 ? words[result] : "unknown result code";
}

nccl_result ncclGroupStart(void)
{
    group_depth++;
    return NCCL_OK;
}

nccl_result ncclGroupEnd(void)
{
    if (group_depth == 0) {
        return NCCL_INVALID_USAGE;
    }
    if (--group_depth > 0) {
        return NCCL_OK;
    }
    if (planned_failure()) {
        grouped.clear();
        return NCCL_INTERNAL_ERROR;
    }
    for (const auto &one : grouped) {
        one.first->given.push_back(one.second);
        one.first->questions = (int)draw(3);
    }
    grouped.clear();
    return NCCL_IN_PROGRESS;
}

nccl_result ncclAllReduce(const void *in, void *out, size_t count, nccl_type type, nccl_op op,
                          nccl_comm comm, cudaStream_t stream)
{
    return give(ALL_REDUCE, in, out, count, type, op, 0, comm, stream);
}

nccl_result ncclReduce(const void *in, void *out, size_t count, nccl_type type, nccl_op op,
                       int root, nccl_comm comm, cudaStream_t stream)
{
    return give(REDUCE, in, out, count, type, op, root, comm, stream);
}

nccl_result ncclReduceScatter(const void *in, void *out, size_t out_count, nccl_type type,
                              nccl_op op, nccl_comm comm, cudaStream_t stream)
{
    return give(REDUCE_SCATTER, in, out, out_count, type, op, 0, comm, stream);
}

nccl_result ncclAllGather(const void *in, void *out, size_t in_count, nccl_type type,
                          nccl_comm comm, cudaStream_t stream)
{
    return give(ALL_GATHER, in, out, in_count, type, 0, 0, comm, stream);
}

nccl_result ncclBroadcast(const void *in, void *out, size_t count, nccl_type type, int root,
                          nccl_comm comm, cudaStream_t stream)
{
    return give(BROADCAST, in, out, count, type, 0, root, comm, stream);
}
