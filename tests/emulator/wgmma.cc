/*
 * wgmma.cc - products of a warpgroup (wgmma), the matrices in shared memory by descriptors.
 *
 * The 128 threads meet for each product and for each wait. From the issue until a wait the
 * registers of the result hold garbage; what they were is kept here. A device may read the matrices
 * at any time between the two: each product draws whether they are read at once or at the wait.
 * Either way both moments are checked against copies under way, for ASan and, as reads by the first
 * lane of each warp, for TSan.
 *
 * Descriptors are decoded here from the tables of canonical layouts in the PTX manual (matrices
 * along K, 128-byte swizzle, 16 bits an element): T = 8 elements are 16 bytes; a row of 8 such
 * parts is 128 bytes; 8 rows are the pattern, in which part p of row r lies at p xor r; patterns
 * follow one another at the stride byte offset. What they address is an address in shared memory,
 * so the pattern begins at a multiple of 1024 bytes.
 */
#include <string.h>

#include "emulator/internals.h"
#include "emulator/sanitizer.h"

namespace emu
{

namespace
{

enum { GROUP = 128, GROUPS = MAX_THREADS / GROUP, M = 64, K = 16, MAX_N = 256 };
enum { MAX_PRODUCTS = 64, MAX_RESULTS = 2 };

struct Matrix {
    uint32_t start, stride; /* bytes: address of row 0, distance of groups of 8 rows */
    int rows;
};

struct Product {
    Matrix a, b;
    uint32_t group; /* commits before it */
    int result;
    bool accumulate, early;
    Place at;
    uint16_t left[M][K], right[MAX_N][K]; /* early: as they were */
};

/* The registers that products are under way to. */
struct Result {
    int columns, pending; /* pending: products under way; 0: nobody's */
    float *registers[GROUP];
    float c[M][MAX_N];
};

struct Warpgroup {
    int arrived;
    bool is_wait;
    Place at;
    const Wgmma *lanes[GROUP];
    int groups_left;
    uint32_t commits[GROUP];
    bool fenced[GROUP];
    Product products[MAX_PRODUCTS]; /* a queue: [first, first + count) modulo its size */
    int first, count;
    Result results[MAX_RESULTS];
};

Warpgroup warpgroups[GROUPS];

Product *product(Warpgroup *w, int i)
{
    return &w->products[(w->first + i) % MAX_PRODUCTS];
}

/* The address of 16 bytes: part of row of the matrix. */
uint32_t part_address(const Matrix &m, int row, int part)
{
    const uint32_t in_row = m.start % 128 / 16 + (uint32_t)part, r = (uint32_t)row % 8;

    return m.start / 128 * 128 + (uint32_t)row / 8 * m.stride + r * 128 + (in_row ^ r) * 16;
}

Matrix decode(uint64_t descriptor, int rows, const char *which, Place at)
{
    const uint32_t start = (uint32_t)(descriptor & 0x3FFF) << 4;
    const uint32_t stride = (uint32_t)(descriptor >> 32 & 0x3FFF) << 4;
    const int base = (int)(descriptor >> 49 & 7), mode = (int)(descriptor >> 62);
    const Matrix m = { start, stride, rows };

    if (mode != 1) {
        fail(at,
             "wgmma: the descriptor of %s has swizzle mode %d: only 1, of 128 bytes, is emulated",
             which, mode);
    }
    if ((descriptor & ~0xC00E3FFF3FFF3FFFu) != 0) {
        fail(at, "wgmma: the descriptor of %s has bits that are reserved", which);
    }
    if (base != 0 || start % 1024 >= 128) {
        fail(at,
             "wgmma: %s begins at %u in shared memory, base offset %d: only patterns from a "
             "multiple "
             "of 1024 bytes are emulated",
             which, start, base);
    }
    if (start % 128 + 32 > 128) {
        fail(at, "wgmma: 16 elements of a row of %s run over its 128 bytes", which);
    }
    return m;
}

/* The bytes between the first and the last row, whose rows of 128 bytes are all touched. */
void check_matrix(const Matrix &m, const char *which, Place at)
{
    const char *begin = shared_memory(m.start / 128 * 128);
    const size_t bytes = (size_t)(m.rows / 8 - 1) * m.stride + 1024;

    check_shared_range(begin, bytes, "wgmma", at);
    check_no_copy(begin, bytes, "wgmma", at);
    const void *bad = asan_first_poisoned(begin, bytes);
    if (bad != nullptr) {
        fail(at, "wgmma reads poisoned shared memory: %zu bytes into %s",
             (size_t)((const char *)bad - begin), which);
    }
}

/* This thread reads what its warp, number of the warpgroup, needs. */
void read_matrices(const Matrix &a, const Matrix &b, int warp)
{
    for (int row = 0; row < a.rows; row++) {
        for (int part = 0; row / 16 == warp && part < 2; part++) {
            tsan_reads(shared_memory(part_address(a, row, part)), 16);
        }
    }
    for (int row = 0; row < b.rows; row++) {
        for (int part = 0; part < 2; part++) {
            tsan_reads(shared_memory(part_address(b, row, part)), 16);
        }
    }
}

void fetch(const Matrix &m, uint16_t (*to)[K])
{
    for (int row = 0; row < m.rows; row++) {
        for (int part = 0; part < 2; part++) {
            const uint16_t *from = (const uint16_t *)shared_memory(part_address(m, row, part));

            for (int i = 0; i < 8; i++) {
                ((volatile uint16_t *)to[row])[8 * part + i] = from[i];
            }
        }
    }
}

/* Register i of a lane: which element of the result it is. */
int row_of(int lane, int i)
{
    return lane / 32 * 16 + lane % 32 / 4 + i / 2 % 2 * 8;
}

int column_of(int lane, int i)
{
    return i / 4 * 8 + lane % 4 * 2 + i % 2;
}

/* The result with these registers, taken from them if nothing was under way to them. */
int take_result(Warpgroup *w)
{
    const Wgmma *const *lanes = w->lanes;
    int which = -1;

    for (int i = 0; i < MAX_RESULTS; i++) {
        if (w->results[i].pending > 0 && w->results[i].registers[0] == lanes[0]->d) {
            return i;
        }
        which = w->results[i].pending == 0 ? i : which;
    }
    if (which < 0) {
        fail(w->at, "wgmma: more than %d results are under way", MAX_RESULTS);
    }
    Result *r = &w->results[which];
    r->columns = lanes[0]->columns;
    for (int lane = 0; lane < GROUP; lane++) {
        r->registers[lane] = lanes[lane]->d;
        for (int i = 0; i < r->columns / 2; i++) {
            r->c[row_of(lane, i)][column_of(lane, i)] = lanes[lane]->d[i];
            ((volatile uint32_t *)lanes[lane]->d)[i] = 0xFFFFFFFFu;
        }
    }
    return which;
}

float from_bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;

    __builtin_memcpy(&value, &wide, sizeof(value));
    return value;
}

void multiply(Warpgroup *w, Product *p)
{
    static float right[K][MAX_N];
    Result *r = &w->results[p->result];
    const int columns = r->columns;

    if (!p->early) {
        fetch(p->a, p->left);
        fetch(p->b, p->right);
    }
    for (int n = 0; n < columns; n++) {
        for (int k = 0; k < K; k++) {
            right[k][n] = from_bf16(p->right[n][k]);
        }
    }
    for (int m = 0; m < M; m++) {
        float *c = r->c[m];

        for (int n = 0; !p->accumulate && n < columns; n++) {
            c[n] = 0.0f;
        }
        for (int k = 0; k < K; k++) {
            const float left = from_bf16(p->left[m][k]);

            for (int n = 0; n < columns; n++) {
                c[n] += left * right[k][n];
            }
        }
    }
}

void deliver(Result *r)
{
    for (int lane = 0; lane < GROUP; lane++) {
        for (int i = 0; i < r->columns / 2; i++) {
            r->registers[lane][i] = r->c[row_of(lane, i)][column_of(lane, i)];
        }
    }
}

void begin_product(Warpgroup *w)
{
    const Wgmma *first = w->lanes[0];

    for (int lane = 0; lane < GROUP; lane++) {
        const Wgmma *other = w->lanes[lane];

        if (other->a != first->a || other->b != first->b || other->columns != first->columns ||
            other->accumulate != first->accumulate || w->commits[lane] != w->commits[0]) {
            fail(w->at,
                 "wgmma: lane %d brings another descriptor, or has committed more or less "
                 "often, than the first lane of its warpgroup",
                 lane);
        }
        if (!w->fenced[lane]) {
            fail(w->at, "wgmma: lane %d has not called wgmma_fence since it began or last waited",
                 lane);
        }
    }
    if (w->count == MAX_PRODUCTS) {
        fail(w->at, "wgmma: more than %d products are under way", MAX_PRODUCTS);
    }
    Product *p = product(w, w->count++);
    p->at = w->at;
    p->a = decode(first->a, M, "a", w->at);
    p->b = decode(first->b, first->columns, "b", w->at);
    p->group = w->commits[0];
    p->accumulate = first->accumulate;
    p->result = take_result(w);
    w->results[p->result].pending++;
    p->early = settings().order == ORDER_RANDOM ? draw(2) == 0 : settings().order == ORDER_FORWARD;
    check_matrix(p->a, "a", p->at);
    check_matrix(p->b, "b", p->at);
    if (p->early) {
        fetch(p->a, p->left);
        fetch(p->b, p->right);
    }
}

/* Products that a wait of this thread ends, of those under way. */
int ended(const Warpgroup *w, int lane, int groups_left)
{
    int n = 0;

    while (n < w->count && (int64_t)w->products[(w->first + n) % MAX_PRODUCTS].group + groups_left <
                               (int64_t)w->commits[lane]) {
        n++;
    }
    return n;
}

void end_products(Warpgroup *w)
{
    for (int n = ended(w, 0, w->groups_left); n > 0; n--) {
        Product *p = product(w, 0);
        Result *r = &w->results[p->result];

        check_matrix(p->a, "a", p->at);
        check_matrix(p->b, "b", p->at);
        multiply(w, p);
        w->first = (w->first + 1) % MAX_PRODUCTS;
        w->count--;
        if (--r->pending == 0) {
            deliver(r);
        }
    }
}

/* Waits for the 128 threads; true in the last, which finds all of them at the same operation. */
bool meet(Warpgroup *w, bool is_wait, int detail, Place at)
{
    const int lane = running_thread() % GROUP;

    if (block_threads() < running_thread() / GROUP * GROUP + GROUP) {
        fail(at, "wgmma: the warpgroup has less than %d threads", GROUP);
    }
    if (w->arrived > 0 && (w->is_wait != is_wait || w->at.line != at.line ||
                           strcmp(w->at.file, at.file) != 0 || w->groups_left != detail)) {
        fail(at, "wgmma: lane %d is here, others of its warpgroup are at %s:%d", lane, w->at.file,
             w->at.line);
    }
    w->is_wait = is_wait;
    w->groups_left = detail;
    w->at = at;
    if (++w->arrived < GROUP) {
        sleep_on(w, "waits for its warpgroup at", at);
        return false;
    }
    w->arrived = 0;
    return true;
}

void wake_others(Warpgroup *w)
{
    const int first = running_thread() / GROUP * GROUP;

    for (int t = first; t < first + GROUP; t++) {
        wake(w, t);
    }
}

Warpgroup *own()
{
    return &warpgroups[running_thread() / GROUP];
}

} // namespace

void wgmma_begin()
{
    for (int g = 0; g < (block_threads() + GROUP - 1) / GROUP; g++) {
        Warpgroup *w = &warpgroups[g];

        w->arrived = w->first = w->count = 0;
        for (int i = 0; i < MAX_RESULTS; i++) {
            w->results[i].pending = 0;
        }
        for (int lane = 0; lane < GROUP; lane++) {
            w->commits[lane] = 0;
            w->fenced[lane] = false;
        }
    }
}

void wgmma_thread_leaves(int thread, Place at)
{
    const Warpgroup *w = &warpgroups[thread / GROUP];

    if (w->count > 0 || w->arrived > 0) {
        fail(at, "a thread returns while its warpgroup's wgmma is under way");
    }
}

void wgmma_fence()
{
    own()->fenced[running_thread() % GROUP] = true;
}

void wgmma_commit()
{
    own()->commits[running_thread() % GROUP]++;
}

void wgmma_issue(const Wgmma *lane, Place at)
{
    Warpgroup *w = own();
    const int number = running_thread() % GROUP;

    w->lanes[number] = lane;
    if (meet(w, false, lane->columns, at)) {
        begin_product(w);
        wake_others(w);
    }
    if (number % 32 == 0) {
        read_matrices(decode(lane->a, M, "a", at), decode(lane->b, lane->columns, "b", at),
                      number / 32);
    }
}

void wgmma_wait(int groups_left, Place at)
{
    Warpgroup *w = own();
    const int number = running_thread() % GROUP;

    if (number % 32 == 0) {
        const int n = ended(w, number, groups_left);

        for (int i = 0; i < n; i++) {
            read_matrices(product(w, i)->a, product(w, i)->b, number / 32);
        }
    }
    w->fenced[number] = false;
    if (meet(w, true, groups_left, at)) {
        end_products(w);
        wake_others(w);
    }
}

} // namespace emu
