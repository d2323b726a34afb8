// The interest graph of a log of events: a function of the sorted events and the options alone.
//
// The events become one sequence of items. An item's row needs only the neighbourhoods of its own
// positions, so positions are grouped by item range, and rows are counted one at a time in a scratch
// array: no list of pairs is ever stored. Masses of pairs are integers, and sums of weights do not depend
// on their order, so neither the threads nor the order of users shows in the result.
#pragma once

#include <cstdint>
#include <memory>

#include "graph/collector.h"
#include "graph/options.h"
#include "graph/sequence.h"
#include "graph/weigh.h"
#include "graph/workers.h"

namespace resemb::graph {

// Rows [first_item, last_item) out of a sequence that holds the surroundings of all their positions. Rows:
// GraphRows or CountRows.
template <class Rows>
void build_rows(Workers& workers, const Sequence& sequence, const Tables& tables, int64_t first_item,
                int64_t last_item, const BuildOptions& options,
                Collector<Neighbor, typename Rows::Value>& out);

// Events of each item.
std::unique_ptr<Word[]> count_items(Workers& workers, const Sequence& sequence, int64_t num_items);

// Adds the masses that pairs of events [begin, end) of a sequence give rows and columns.
void add_margins(const Sequence& sequence, int64_t begin, int64_t end, const RowOptions& options,
                 uint64_t* rows, uint64_t* columns);
// Before and after all have been added.
void open_margins(Tables& tables, const BuildOptions& options);
void close_margins(Tables& tables, const BuildOptions& options);
// The margins of a whole sequence.
void make_margins(Tables& tables, const Sequence& sequence, const BuildOptions& options, Workers& workers);

Csr<Neighbor, float> build(const Events& events, const BuildOptions& options, Workers& workers);

// The graph of pairs counted before: CSR masses, ascending in every row, without own entries.
Csr<Neighbor, float> weigh(const int64_t* indptr, const Neighbor* neighbors, const int64_t* masses,
                           const Word* occurrences, const BuildOptions& options, Workers& workers);

}  // namespace resemb::graph
