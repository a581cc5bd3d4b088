/* Parts of buffers, and the closed forms of what is sent; see comm.h and transfer.h. */
#include "comm/transfer.h"

void tr_comm_part(int64_t count, int64_t members, int64_t index, int64_t *out_offset,
                  int64_t *out_count)
{
    int64_t base = count / members, extra = count % members;
    *out_offset = index * base + TR_MIN(index, extra);
    *out_count = base + (index < extra);
}

int64_t *tr_cut_offsets(tr_cut cut, int32_t n)
{
    TR_CHECK(cut.outer >= 0 && cut.count >= 0, "a cut of %lld x %lld", (long long)cut.outer,
             (long long)cut.count);
    int64_t *offsets = tr_alloc(((size_t)n + 1) * sizeof *offsets), part;
    offsets[n] = cut.count;
    for (int32_t k = 0; k < n; k++)
        if (!cut.parts)
            tr_comm_part(cut.count, n, k, &offsets[k], &part);
        else
            offsets[k] = k ? offsets[k - 1] + cut.parts[k - 1] : 0;
    TR_CHECK(!cut.parts || offsets[n - 1] + cut.parts[n - 1] == cut.count,
             "the parts of a cut are not its count");
    return offsets;
}

tr_block tr_cut_block(const char *buffer, int64_t outer, const int64_t *offsets,
                      int64_t element_bytes, int32_t n, int32_t k)
{
    return (tr_block){(char *)(uintptr_t)buffer + offsets[k] * element_bytes, outer,
                      (offsets[k + 1] - offsets[k]) * element_bytes, offsets[n] * element_bytes};
}

tr_block tr_part_block(const char *buffer, int64_t outer, const int64_t *offsets,
                       int64_t element_bytes, int32_t k)
{
    int64_t bytes = (offsets[k + 1] - offsets[k]) * element_bytes;
    return (tr_block){(char *)(uintptr_t)buffer, outer, bytes, bytes};
}

static tr_block simplest(tr_block b)
{
    if (b.stride == b.row_bytes || b.rows == 1)
        return (tr_block){b.bytes, 1, b.rows * b.row_bytes, b.rows * b.row_bytes};
    return b;
}

void tr_block_copy(const tr_block *to, const tr_block *from)
{
    TR_CHECK(tr_block_bytes(to) == tr_block_bytes(from), "a copy of %lld bytes into %lld",
             (long long)tr_block_bytes(from), (long long)tr_block_bytes(to));
    tr_block a = simplest(*to), b = simplest(*from);
    int64_t left = tr_block_bytes(&a), a_at = 0, b_at = 0;
    while (left > 0) {
        int64_t some = TR_MIN(a.row_bytes - a_at, b.row_bytes - b_at);
        memcpy(a.bytes + a_at, b.bytes + b_at, (size_t)some);
        left -= some;
        a_at += some;
        b_at += some;
        if (a_at == a.row_bytes) {
            a.bytes += a.stride;
            a_at = 0;
        }
        if (b_at == b.row_bytes) {
            b.bytes += b.stride;
            b_at = 0;
        }
    }
}

int64_t tr_comm_cost_bytes(tr_traffic traffic, tr_cut cut, int64_t element_bytes, int32_t n,
                           int32_t me, int32_t root, int32_t here)
{
    if (n == 1)
        return 0;
    if (traffic == TR_TRAFFIC_ALL_REDUCE && here == n && tr_doubling_fits(n, cut.count * element_bytes))
        return (n - 1) * cut.count * element_bytes;
    if (traffic == TR_TRAFFIC_POINT)
        return cut.outer * cut.count * element_bytes;
    if (traffic == TR_TRAFFIC_ALL_REDUCE || traffic == TR_TRAFFIC_BROADCAST)
        cut.parts = NULL;
    int64_t *offsets = tr_cut_offsets(cut, n);
    int64_t whole = cut.outer * cut.count, mine = cut.outer * (offsets[me + 1] - offsets[me]),
            elements = 0, column = 0;
    for (int32_t k = me % here; k < n; k += here)
        column += cut.outer * (offsets[k + 1] - offsets[k]);
    int64_t spread = (n / here - 1) * mine + (here - 1) * column; /* on one host: column is mine */
    free(offsets);
    switch (traffic) {
    case TR_TRAFFIC_ALL_REDUCE:
        elements = whole - mine + spread;
        break;
    case TR_TRAFFIC_REDUCE_SCATTER:
    case TR_TRAFFIC_ALL_TO_ALL:
        elements = whole - mine;
        break;
    case TR_TRAFFIC_ALL_GATHER:
        elements = spread;
        break;
    case TR_TRAFFIC_BROADCAST:
        elements = me == root ? whole - mine + (n - 1) * mine : (n - 2) * mine;
        break;
    default:
        break;
    }
    return elements * element_bytes;
}

int64_t tr_comm_cost_scratch(tr_traffic traffic, tr_cut cut, tr_dtype dtype, tr_dtype wire, int32_t n, bool processes)
{
    enum { PAGE = 4096 };
    int64_t most = 0, bytes;
    tr_segments segments;
    if (n == 1 || (traffic != TR_TRAFFIC_ALL_REDUCE && traffic != TR_TRAFFIC_REDUCE_SCATTER))
        return 0;
    int64_t *offsets = tr_cut_offsets(cut, n);
    for (int32_t k = 0; k < n; k++)
        most = TR_MAX(most, offsets[k + 1] - offsets[k]);
    free(offsets);
    bool packs = wire != dtype, lends = !processes;
    int64_t limit = tr_segment_limit(processes ? TR_MPI_SEGMENT_BYTES : TR_THREAD_SEGMENT_BYTES, n);
    bytes = tr_exchange_scratch(cut.outer, most, tr_dtype_bytes(wire), limit, packs, lends, n, &segments);
    if (traffic == TR_TRAFFIC_ALL_REDUCE)
        bytes += tr_all_reduce_scratch(&segments, packs, lends, n);
    if (traffic == TR_TRAFFIC_ALL_REDUCE && tr_doubling_fits(n, cut.count * tr_dtype_bytes(wire)))
        bytes = (n + 1) * cut.count * tr_dtype_bytes(wire);
    if (processes && n >= 4) /* they may be on several hosts */
        bytes = TR_MAX(bytes, tr_hierarchy_least_scratch(n));
    return (bytes + PAGE - 1) / PAGE * PAGE;
}
