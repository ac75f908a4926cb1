// A product of two numbers without a sign, three cycles later; a new one every cycle. Four bits of `b` at a time, then
// sums of four, then all: no cycle has more than a few rows to add.
module unit_multiply #(
  parameter int unsigned A = 32,
  parameter int unsigned B = 32
) (
  input  logic           clk,
  input  logic [A-1:0]   a,
  input  logic [B-1:0]   b,
  output logic [A+B-1:0] product
);
  localparam int unsigned GROUPS = (B + 15) / 16;
  localparam int unsigned WIDE = 16 * GROUPS;

  logic [WIDE-1:0] digits;
  logic [4*GROUPS*(A+4)-1:0] partial;
  logic [GROUPS*(A+16)-1:0] group;
  logic [A+WIDE-1:0] sum;

  assign digits = WIDE'(b);
  for (genvar i = 0; i < 4 * GROUPS; i++) begin : rows
    always_ff @(posedge clk) partial[i*(A+4)+:A+4] <= (A + 4)'(a) * (A + 4)'(digits[4*i+:4]);
  end
  for (genvar i = 0; i < GROUPS; i++) begin : groups
    always_ff @(posedge clk)
      group[i*(A+16)+:A+16] <= (A + 16)'(partial[(4*i)*(A+4)+:A+4])
                             + ((A + 16)'(partial[(4*i+1)*(A+4)+:A+4]) << 4)
                             + ((A + 16)'(partial[(4*i+2)*(A+4)+:A+4]) << 8)
                             + ((A + 16)'(partial[(4*i+3)*(A+4)+:A+4]) << 12);
  end
  if (GROUPS == 1) begin : one
    always_ff @(posedge clk) sum <= (A + WIDE)'(group[0+:A+16]);
  end else begin : two
    always_ff @(posedge clk) sum <= (A + WIDE)'(group[0+:A+16]) + ((A + WIDE)'(group[A+16+:A+16]) << 16);
  end
  assign product = sum[A+B-1:0];
endmodule
