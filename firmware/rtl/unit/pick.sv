// One of N entries; 0 of one that there is not.
module unit_pick #(
  parameter int unsigned N = 8,
  parameter int unsigned WIDTH = 32,
  parameter int unsigned INDEX = (N > 1) ? $clog2(N) : 1
) (
  input  logic [N*WIDTH-1:0] entries,
  input  logic [INDEX-1:0]   index,
  output logic [WIDTH-1:0]   entry
);
  always_comb begin
    entry = '0;
    for (int unsigned i = 0; i < N; i++) if (index == INDEX'(i)) entry = entry | entries[i*WIDTH+:WIDTH];
  end
endmodule
