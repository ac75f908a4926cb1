// floor(2^31 numerator / denominator) of a numerator below the denominator, in 16 steps of two bits; 2^31 of one that
// is not below it, as shares of a whole are at most 1. The denominator is there a cycle before the numerator, and holds
// still: it is copied, as one register cannot drive what many of these have.
//
// Sixteen steps are 32 bits, so it is twice the denominator that is taken off.
module unit_quotient (
  input  logic        clk,
  input  logic        load,
  input  logic        step,
  input  logic [31:0] numerator,
  input  logic [31:0] denominator,
  output logic [31:0] quotient
);
  logic [31:0] divisor;
  logic [32:0] rest;
  logic [34:0] thrice;
  logic whole;
  wire [34:0] shifted = {rest, 2'b00};
  wire [34:0] once = {2'b00, divisor, 1'b0};
  wire [34:0] twice = {1'b0, divisor, 2'b00};
  wire [34:0] less_once = shifted - once;
  wire [34:0] less_twice = shifted - twice;
  wire [34:0] less_thrice = shifted - thrice;
  wire fits_once = shifted >= once;
  wire fits_twice = shifted >= twice;
  wire fits_thrice = shifted >= thrice;

  always_ff @(posedge clk) begin
    divisor <= denominator;
    thrice <= {2'b00, divisor, 1'b0} + {1'b0, divisor, 2'b00};
    // What is left goes on being divided when nobody steps: a choice less on the longest way.
    rest <= load ? {1'b0, numerator} : fits_thrice ? less_thrice[32:0] : fits_twice ? less_twice[32:0]
          : fits_once ? less_once[32:0] : shifted[32:0];
    if (load) begin
      whole <= numerator >= divisor;
      quotient <= '0;
    end else if (step) begin
      quotient <= whole ? 32'h8000_0000 : {quotient[29:0], fits_twice, fits_thrice | (fits_once & ~fits_twice)};
    end
  end
`ifdef FORMAL
  // What is left stays below twice the denominator, so that no step overflows.
  logic begun = 1'b0, under_way = 1'b0;
  logic [1:0] cycles = 2'd0;
  logic [31:0] denominator_before, divisor_before;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    if (!cycles[1]) cycles <= cycles + 2'd1;
    denominator_before <= denominator;
    divisor_before <= divisor;
    if (load) under_way <= begun && numerator < divisor;
    if (begun && (load || under_way)) assume (denominator == denominator_before);
    if (begun) assert (divisor == denominator_before);
    if (cycles[1]) assert (thrice == {2'b00, divisor_before, 1'b0} + {1'b0, divisor_before, 2'b00});
    if (under_way) assert (divisor == divisor_before && cycles[1]);
    if (under_way) assert (rest < {divisor, 1'b0});
  end
`endif
endmodule
