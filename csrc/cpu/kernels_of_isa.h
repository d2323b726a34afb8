// The row kernels of one instruction set and their table, in the namespace RESEMB_ISA: included once for
// each.
namespace resemb::cpu {
namespace RESEMB_ISA {

int64_t gather(const GatherArgs&, int64_t begin, int64_t end);
bool segment_sum(const SegmentArgs&, int64_t begin, int64_t end);
int64_t attend(const AttentionArgs&, int64_t begin, int64_t end);
void attend_backward(const AttentionArgs&, int64_t begin, int64_t end);
bool attention_segment_sum(const AttentionSegmentArgs&, int64_t begin, int64_t end);
void copy(const CopyArgs&, int64_t begin, int64_t end);
void dot(const DotArgs&, int64_t begin, int64_t end);
void rank(const RankArgs&, int64_t begin, int64_t end);
void update(const UpdateArgs&, int64_t begin, int64_t end);
void activate(const ActivationArgs&, void* scratch, int64_t begin, int64_t end);
void activate_backward(const ActivationArgs&, void* scratch, void* partial, int64_t begin, int64_t end);
int64_t read_rows(const ServedRows&, int64_t begin, int64_t end);
int64_t pool_rows(const ServedBags&, int64_t begin, int64_t end);

constexpr Kernels table_of(const char* isa) {
  return {isa,       gather,   segment_sum, attend, attend_backward, attention_segment_sum,
          copy,      dot,      rank,        update, activate,        activate_backward,
          read_rows, pool_rows};
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
