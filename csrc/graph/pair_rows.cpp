#include "graph/count_rows.h"

namespace resemb::graph {

template void build_rows<CountRows>(Workers&, const Sequence&, const Tables&, int64_t, int64_t,
                                    const BuildOptions&, Collector<Neighbor, CountRows::Value>&);

}  // namespace resemb::graph
