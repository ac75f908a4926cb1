// A product of two numbers without a sign, four cycles later; a new one every cycle. Three times `a`; then rows of four
// bits of `b` each, two picks of 0 to 3 times `a`; then sums of three rows; then all. No cycle has more to do than a
// pick, or one saved carry, before one sum.
module unit_multiply #(
  parameter int unsigned A = 32,
  parameter int unsigned B = 32
) (
  input  logic           clk,
  input  logic [A-1:0]   a,
  input  logic [B-1:0]   b,
  output logic [A+B-1:0] product
);
  localparam int unsigned GROUPS = (B + 11) / 12;
  localparam int unsigned WIDE = 12 * GROUPS;

  logic [WIDE-1:0] digits;
  logic [A-1:0] once;
  logic [A+1:0] thrice;
  logic [3*GROUPS*(A+4)-1:0] rows;
  logic [GROUPS*(A+12)-1:0] groups;
  logic [A+WIDE-1:0] total, sum;

  always_ff @(posedge clk) begin
    digits <= WIDE'(b);
    once <= a;
    thrice <= (A + 2)'(a) + ((A + 2)'(a) << 1);
  end
  for (genvar i = 0; i < 3 * GROUPS; i++) begin : every_row
    logic [A+1:0] low, high;
    unit_pick #(.N(4), .WIDTH(A + 2)) pick_low (
      .entries({thrice, 1'b0, once, 1'b0, 2'b00, once, (A + 2)'(0)}), .index(digits[4*i+:2]), .entry(low)
    );
    unit_pick #(.N(4), .WIDTH(A + 2)) pick_high (
      .entries({thrice, 1'b0, once, 1'b0, 2'b00, once, (A + 2)'(0)}), .index(digits[4*i+2+:2]), .entry(high)
    );
    always_ff @(posedge clk) rows[i*(A+4)+:A+4] <= (A + 4)'(low) + ((A + 4)'(high) << 2);
  end
  for (genvar i = 0; i < GROUPS; i++) begin : every_group
    always_ff @(posedge clk)
      groups[i*(A+12)+:A+12] <= (A + 12)'(rows[(3*i)*(A+4)+:A+4]) + ((A + 12)'(rows[(3*i+1)*(A+4)+:A+4]) << 4)
                              + ((A + 12)'(rows[(3*i+2)*(A+4)+:A+4]) << 8);
  end
  always_comb begin
    total = '0;
    for (int unsigned i = 0; i < GROUPS; i++) total = total + ((A + WIDE)'(groups[i*(A+12)+:A+12]) << (12 * i));
  end
  always_ff @(posedge clk) sum <= total;
  assign product = sum[A+B-1:0];
endmodule
