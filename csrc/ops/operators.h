// The operators' implementations, which serve every device.
#pragma once

#include <torch/csrc/stable/library.h>

namespace resemb {

using Library = torch::stable::detail::StableLibrary;

void implement_lookups(Library& m);
void implement_attention(Library& m);
void implement_table_rows(Library& m);
void implement_updates(Library& m);
void implement_activation(Library& m);  // on the CPU alone
void implement_quantized(Library& m);   // likewise

}  // namespace resemb
