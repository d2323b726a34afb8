#include "graph/count_rows.h"

namespace resemb::graph {

template void build_rows<GraphRows>(Workers&, const Sequence&, const Tables&, int64_t, int64_t,
                                    const BuildOptions&, Collector<Neighbor, GraphRows::Value>&);

}  // namespace resemb::graph
