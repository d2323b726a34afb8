// The memory's own rates for what a training step does: built by ceiling.py, free of this package's code.
#include <cstdint>
#include <cstring>

extern "C" {

// Sums the given rows: how fast rows at random can be read.
float read_rows(const float* table, const int64_t* rows, int64_t n, int64_t dim) {
  float total = 0;
#pragma omp parallel for schedule(dynamic, 512) reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) {
    if (i + 16 < n) {
      for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(table + rows[i + 16] * dim + d, 0, 2);
    }
    const float* row = table + rows[i] * dim;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dim; ++d) sum += row[d];
    total += sum;
  }
  return total;
}

// Reads and writes the given rows of three tables, as Adam does with a table and its two moments.
void change_rows(float* a, float* b, float* c, const int64_t* rows, int64_t n, int64_t dim) {
#pragma omp parallel for schedule(dynamic, 512)
  for (int64_t i = 0; i < n; ++i) {
    if (i + 16 < n) {
      for (int64_t d = 0; d < dim; d += 16) {
        __builtin_prefetch(a + rows[i + 16] * dim + d, 1, 2);
        __builtin_prefetch(b + rows[i + 16] * dim + d, 1, 2);
        __builtin_prefetch(c + rows[i + 16] * dim + d, 1, 2);
      }
    }
    float *x = a + rows[i] * dim, *y = b + rows[i] * dim, *z = c + rows[i] * dim;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) {
      y[d] = y[d] * 0.5f;
      z[d] = z[d] * 0.5f;
      x[d] = x[d] + y[d] + z[d];
    }
  }
}

// Copies floats in line.
void copy_floats(float* to, const float* from, int64_t n) {
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < (n + 65535) / 65536; ++block) {
    const int64_t first = block * 65536, count = first + 65536 < n ? 65536 : n - first;
    std::memcpy(to + first, from + first, count * sizeof(float));
  }
}
}
